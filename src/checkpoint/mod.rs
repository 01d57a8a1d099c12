//! Checkpoints on disk: tensors in safetensors files, and whole folders that are replaced in one step.
//!
//! Knows files and bytes, and the models of published families; what else tensors mean is the business of whoever saves and
//! loads them.

mod blocks;
mod coverage;
pub mod experts;
mod export;
mod family;
mod folder;
mod foreign;
mod header;
mod hub_files;
pub mod inspect;
mod inventory;
mod layer;
mod names;
pub mod pretrained;
mod stream;
mod table;
mod target;
mod tensors;
mod unique;
mod widen;

pub use experts::{Common, ExpertCheckpoint, ExpertLayer, ExpertStack, Family};
pub use export::{ExportOptions, ExportType, export};
pub(crate) use folder::{create_atomically, locate, write_atomically};
pub use folder::{require_new, write_file_atomically};
pub use hub_files::HubFiles;
#[cfg(feature = "cli")]
pub(crate) use names::others;
pub use pretrained::{Coverage, FamilyCheckpoint};
pub(crate) use pretrained::{eos_of, model_of};
pub use tensors::{TensorFile, TensorToSave, load_tensors, save_tensors};

/// The file of the model's parameters within a checkpoint folder.
pub const MODEL_FILE: &str = "model.safetensors";

/// The file of the optimizer's state within a checkpoint folder.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// The metadata entry that both files of a checkpoint share and no other checkpoint has; files of older programs lack it.
pub(crate) const IDENTITY: &str = "identity";

/// The error for an optimizer's file whose [`IDENTITY`] is not the model's.
pub(crate) const OTHER_CHECKPOINT: &str =
    "expected the state that was saved with the model beside it, got that of another checkpoint or run";
