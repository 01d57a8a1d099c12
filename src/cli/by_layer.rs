//! The flag of the commands that can run a published model a layer at a time, and the loading of the model.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::memory::{Purpose, WeightType};
use crate::nn::model::Model;
use crate::nn::part::ModelParts;
use crate::nn::size::mib;
use crate::train::by_layer::ByLayer;
use crate::train::pretrained::Pretrained;
use crate::train::progress::say;

use super::as_flag;
use super::device::DeviceArgs;

/// The flag.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct ByLayerArgs {
    /// Run a published model a layer at a time, so that the device holds the largest layer alone; auto: where the whole does
    /// not fit
    #[arg(long = "by-layer", value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum When {
    /// Where its weights do not fit the memory
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// A model that is ready to run.
pub(super) enum Loaded<'a> {
    /// All of it is on the device.
    Whole(Box<Model>),
    /// Its parts are read when they are used.
    ByLayer(ByLayer<'a>),
}

impl Loaded<'_> {
    /// The model by its parts.
    pub(super) fn parts(&self) -> &dyn ModelParts {
        match self {
            Self::Whole(model) => &**model,
            Self::ByLayer(model) => model,
        }
    }
}

impl ByLayerArgs {
    /// Whether the flag asks for a layer at a time.
    pub(super) fn is_on(self) -> bool {
        self.when == When::On
    }

    /// Refuses a model that cannot be run as the flag wants it.
    pub(super) fn check(self, model: &Pretrained) -> Result<()> {
        if self.is_on() { model.in_parts().map(drop).map_err(as_flag) } else { Ok(()) }
    }

    /// Loads the model, or prepares to run it by layer, on `gpu` or one that takes its place.
    pub(super) async fn load<'a>(
        self,
        model: &'a Pretrained,
        purpose: Purpose,
        device: &DeviceArgs,
        mut gpu: Gpu,
    ) -> Result<(Gpu, Loaded<'a>)> {
        let auto = self.when == When::Auto && matches!(model, Pretrained::Family(_));
        let shown = |bytes: u64| mib(u128::from(bytes));
        let whole = match self.when {
            When::On => false,
            When::Auto => model.fits(&gpu, purpose)?,
            When::Off if purpose == Purpose::Gradients && !model.fits(&gpu, purpose)? => {
                let whole = shown(model.in_parts()?.memory()?.bytes(purpose));
                let message = format!("the weights take {whole} with their gradients, more than the device holds");
                return Err(Error::config("--by-layer", message));
            }
            When::Off => true,
        };
        if whole {
            let loaded = match purpose {
                Purpose::Inference(weights) => model.load_for_inference(&gpu, weights),
                Purpose::Gradients => model.load(&gpu),
            };
            match loaded {
                Ok(model) => return Ok((gpu, Loaded::Whole(Box::new(model)))),
                Err(_) if auto && matches!(gpu.check(), Err(Error::OutOfMemory { .. })) => {}
                Err(error) => return Err(error),
            }
            // A device that was full stays out of use.
            gpu = Gpu::open(&device.options()).await?;
        }
        let weights = if let Purpose::Inference(weights) = purpose { weights } else { WeightType::F32 };
        let parts = ByLayer::new(&gpu, model.in_parts()?, weights)?;
        parts.require_memory(purpose)?;
        if auto {
            let plan = parts.memory()?;
            let [all, part] = [plan.bytes(purpose), plan.part_bytes(purpose)].map(shown);
            say(&format!(
                "the model takes {all}, more than the device holds: it runs by layer, {part} of it at a time at the most"
            ));
        }
        Ok((gpu, Loaded::ByLayer(parts)))
    }
}
