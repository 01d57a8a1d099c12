//! The flag that says in which types a model's weights are on the device.

use crate::train::pretrained::WeightType;

/// The flag of the commands that run a model and do not train it.
#[derive(Debug, clap::Args)]
pub(super) struct WeightArgs {
    /// Types of a published model's matrices on the device
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Weights::Stored)]
    weights: Weights,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Weights {
    /// As its files have them: bf16 and f16 take half of f32
    Stored,
    /// All in f32
    F32,
}

impl WeightArgs {
    pub(super) fn weight_type(&self) -> WeightType {
        match self.weights {
            Weights::Stored => WeightType::AsStored,
            Weights::F32 => WeightType::F32,
        }
    }
}
