//! Upcycling a dense model that is on disk ([`crate::nn::upcycle`]): a Hugging Face folder becomes one of the family with experts
//! that has its attention, a run of this program a checkpoint to train on from.

use std::path::{Path, PathBuf};

use super::config::RunConfig;
use super::pretrained::{HostParameter, Pretrained};
use super::saved;
use crate::checkpoint::{ExportOptions, ExportType, HubFiles, TensorToSave, export};
use crate::error::{Error, Result};
use crate::nn::families::{Family, FamilyModel, Parameter};
use crate::nn::upcycle::{Upcycle, Upcycled};

/// Hidden width of the shared expert that a family cannot be without: its output starts at zero.
const LEAST_SHARED: usize = 64;

/// A dense model that is to be upcycled, checked.
#[derive(Debug)]
pub struct UpcyclePlan<'a> {
    source: &'a Pretrained,
    upcycled: Upcycled,
    /// The model that a published one becomes.
    family: Option<FamilyModel>,
}

/// The family with experts whose attention is that of a dense one.
///
/// # Errors
/// [`Error::Config`] where there is none.
pub fn family_with_experts(dense: Family) -> Result<Family> {
    match dense {
        Family::Llama => Ok(Family::Mixtral),
        Family::Qwen2 => Ok(Family::Qwen2Moe),
        Family::Qwen3 => Ok(Family::Qwen3Moe),
        other => {
            let message = format!("expected a dense family (llama, qwen2, qwen3), got {}", other.name());
            Err(Error::config("model_type", message))
        }
    }
}

impl<'a> UpcyclePlan<'a> {
    /// Checks that `source` is dense, and that what it becomes can be written; needs neither weights nor a device.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting that stands against it; [`Error::Checkpoint`] for a damaged `config.json`.
    pub fn new(source: &'a Pretrained, mut options: Upcycle) -> Result<Self> {
        let dense = source.config();
        let Pretrained::Family(folder) = source else {
            return Ok(Self { source, upcycled: Upcycled::new(dense, options)?, family: None });
        };
        let model = folder.model();
        let family = family_with_experts(model.family)?;
        if family == Family::Qwen2Moe && options.d_shared == 0 {
            options.d_shared = LEAST_SHARED.min(dense.d_dense);
        }
        let upcycled = Upcycled::new(dense, options)?;
        let mut target = FamilyModel::new(family, upcycled.config(), model.context)?;
        (target.bos, target.eos) = (model.bos, model.eos.clone());
        target.to_json()?;
        Ok(Self { source, upcycled, family: Some(target) })
    }

    /// The model with experts.
    pub fn upcycled(&self) -> &Upcycled {
        &self.upcycled
    }

    /// The published family that it becomes; none for a run of this program.
    pub fn family(&self) -> Option<Family> {
        self.family.as_ref().map(|model| model.family)
    }

    /// Writes the new folder `dir`: of a published model a Hugging Face folder, its numbers in `dtype`, with the tokenizer's files;
    /// of a run a checkpoint of step 0. The host holds the dense weights, and of the others one bank of experts at a time; of a
    /// run all.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when something stands at `dir`, and for a number that is not finite; [`Error::Io`].
    pub fn write(&self, dtype: ExportType, dir: &Path) -> Result<()> {
        let dense = self.source.read()?;
        let value = |name: &str| find(&dense, name);
        let Some(target) = &self.family else { return self.write_run(dir, value) };
        let options = ExportOptions { dtype, copies: self.copies(), ..ExportOptions::default() };
        // A parameter at a time: its matrices are asked for one behind the other.
        let mut held: (String, Vec<f32>) = Default::default();
        export(dir, target, &options, |parameter: &Parameter, first, numbers| {
            if held.0 != parameter.name {
                held = (parameter.name.clone(), self.upcycled.values(&parameter.name, value)?);
            }
            numbers.copy_from_slice(&held.1[first..first + numbers.len()]);
            Ok(())
        })
    }

    fn write_run<'b>(&self, dir: &Path, value: impl Fn(&str) -> Result<&'b [f32]> + Copy) -> Result<()> {
        let mut config = RunConfig::continuing(self.upcycled.config(), self.source.context());
        config.train.seq = self.source.context();
        config.data.tokenizer = self.source.run_config().data.tokenizer;
        let shapes = self.upcycled.shapes();
        let values = shapes.iter().map(|(name, _)| self.upcycled.values(name, value)).collect::<Result<Vec<_>>>()?;
        let tensors = shapes.iter().zip(&values).map(|((name, shape), x)| TensorToSave::f32(name, shape, x));
        // What is kept of a published model is its tokenizer: this is another model.
        let hub = self.source.hub_files()?.without_model();
        saved::create(dir, &config, &tensors.collect::<Vec<_>>(), &[], &hub)
    }

    /// The files that are copied.
    fn copies(&self) -> Vec<PathBuf> {
        let Pretrained::Family(folder) = self.source else { return Vec::new() };
        HubFiles::paths_without_model(&folder.directory()).into_iter().map(|(_, path)| path).collect()
    }
}

fn find<'a>(dense: &'a [HostParameter], name: &str) -> Result<&'a [f32]> {
    let found = dense.iter().find(|parameter| parameter.name == name);
    let found = found.ok_or_else(|| Error::config("model", format!("expected a parameter `{name}`, found none")))?;
    Ok(&found.values)
}
