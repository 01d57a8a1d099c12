//! Mixture-of-Experts training with spectral decoupling (SD-MoE, arXiv 2602.12556) on any GPU, through wgpu.
//!
//! A whole program: it opens the best adapter and trains a small byte-level model on a text. Where there is no GPU and
//! no software driver, [`Gpu::open`] returns an error that says what to install.
//!
//! ```
//! use sdmoe::prelude::*;
//!
//! fn main() -> Result<()> {
//!     pollster::block_on(train("Experts often end up alike. ".repeat(40).as_bytes()))
//! }
//!
//! async fn train(text: &[u8]) -> Result<()> {
//!     let gpu = Gpu::open(&GpuOptions::default()).await?;
//!
//!     let mut config = RunConfig::preset(Preset::Tiny);
//!     config.model.layers = 1;
//!     config.model.d_model = 64;
//!     config.model.head_dim = 16;
//!     config.model.moe.d_expert = 64;
//!     config.model.moe.d_shared = 64;
//!     config.train.steps = 2;
//!     config.train.batch = 2;
//!     config.train.seq = 32;
//!
//!     let batches = Batches::new(text, config.train.batch, config.train.seq, config.seed)?;
//!     let mut trainer = Trainer::new(&gpu, &config)?;
//!     for step in 1..=config.train.steps {
//!         trainer.step(&[batches.batch(step, 0)])?;
//!         // The device works on; figures arrive some steps later, at the last step all of them.
//!         for report in trainer.reports(step == config.train.steps).await? {
//!             println!("step {}: {:.3} nats per byte", report.step, report.loss);
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! The future may be run by any executor; pollster is a small one. [`prelude`] has what such a program needs, and the
//! same names are at the root. [`wgpu`] is re-exported: [`Gpu::from_device`] takes a device that the application
//! already has, best one opened with [`gpu::device_descriptor`]. [`Trainer::snapshot`] holds all of a run in host memory,
//! from which it goes on after a lost device. An activation of one's own is made by [`elementwise!`] from a few lines of WGSL; any other op
//! implements [`Op`], has its kernels in WGSL and their parameters by [`params!`]. [`autograd::check`] compares either
//! with its reference. [`Error::kind`] says what sort of failure an error is.
//!
//! # Features
//!
//! All are on by default. `default-features = false` leaves the library that trains, without the crates of the others:
//! it touches no files, and builds for `wasm32-unknown-unknown`, as it does with `analysis` and `verify`.
//!
//! | feature | what it adds |
//! |---|---|
//! | `files` | what is kept on a disk, implied by all below: `checkpoint`, the corpora of [`data`], runs in [`train`], published models (`nn::families`), settings as TOML, caches of compiled pipelines |
//! | `analysis` | the analysis of experts, and its report as a page: `analysis`, `report` |
//! | `bench` | how fast kernels and training steps are, and the choice of the fastest shapes: `bench` |
//! | `tokenizer` | tokenizers and chat templates of published models: `data::hub_tokenizer` |
//! | `verify` | whether the machine's drivers compute the right thing: `verify` |
//! | `cli` | the program `sdmoe`, with the bar of a run: `cli`; it implies the others |
//!
//! # Spectral decoupling
//!
//! Experts of a Mixture-of-Experts often end up alike: their weights and gradients share the same leading singular
//! directions. SD-MoE gives each expert `i` the weight
//!
//! ```text
//! W_i = W_c + W_u,i        W_c : common, its leading k singular vectors are U and V
//!                          W_u,i : the expert's own, (I - U U^T) W_u,i (I - V V^T) = W_u,i
//! G_i = G_c,i + G_u,i      G_u,i = (I - U U^T) G_i (I - V V^T)
//! ```
//!
//! trains `W_c` with the sum of the `G_c,i` and `W_u,i` with `G_u,i`, and refreshes U and V by a randomized SVD of
//! `W_c` every few steps. All of it runs in WGSL compute shaders, without a readback in the training step.
//!
//! # The modules
//!
//! Data flows one way through the modules; each imports only from those before it:
//!
//! | module | what it is |
//! |---|---|
//! | [`error`] | the one error type |
//! | [`gpu`] | the device: adapters and their tiers, kernels bound by name, recorder, buffer pool, timing |
//! | [`tensor`] | a handle to an array on the device |
//! | [`low_level::kernels`] | launches that several ops share: matrix products, grouped expert products, routing |
//! | [`autograd`] | the tape, the op trait, the check of forward and backward against an f64 reference |
//! | [`ops`] | the differentiable ops, one a file: equation, launch, backward, reference |
//! | [`linalg`] | random numbers, tall-skinny QR, small SVD, randomized SVD, subspaces |
//! | [`nn`] | layers, the models they make, their configuration, families of published models, generation |
//! | [`optim`] | AdamW and Muon, clipping, the spectral state of the experts: gradient split, refresh of the bases |
//! | `checkpoint`, [`data`] | safetensors, folders replaced as a whole, published models and the experts of any checkpoint; corpus and batches |
//! | [`train`] | the trainer, and a whole run with its metrics; models that are there: opened, decoupled, trained on |
//! | `analysis` | how specialised experts are, each figure beside what chance gives |
//! | `report` | what an analysis found, as a page, figures and a table for the terminal |
//! | `bench` | how fast it is |
//! | `verify` | whether a driver computes the right thing: every kernel against f64, probes of the driver, a harness for any shader |
//! | [`low_level::catalog`] | the list of all kernels |
//! | [`prelude`] | what a training program needs |
//! | `cli` | the program, one file a subcommand |
//!
//! The WGSL of a kernel is in `shaders/`, under the kernel's name or its family's. `METHOD` in comments is
//! `docs/method.md`: the equations in one notation.

#[macro_use]
mod setters;

#[cfg(feature = "analysis")]
pub mod analysis;
pub mod autograd;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "files")]
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod error;
#[cfg(feature = "files")]
mod files;
pub mod gpu;
pub mod linalg;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod prelude;
#[cfg(feature = "analysis")]
pub mod report;
pub mod tensor;
pub mod train;
#[cfg(feature = "verify")]
pub mod verify;

pub use autograd::{Array, Backward, Forward, Gradients, Op, Reads, Tape, Var};
pub use data::{Batch, Batches};
pub use error::{Error, ErrorKind, Result};
pub use gpu::{AdapterChoice, DType, Gpu, GpuOptions, Kernel, Launch, Tier};
pub use nn::config::{ModelConfig, Precision, Preset, SpectralConfig};
pub use nn::language_model::{ExpertCount, LanguageModel, Output};
pub use nn::model::Model;
pub use ops::Elementwise;
pub use optim::{Optimizer, OptimizerConfig};
pub use tensor::{Shape, Tensor};
pub use train::config::RunConfig;
pub use train::snapshot::Snapshot;
pub use train::trainer::{StepReport, Trainer};
/// The crate with which devices are opened, of the version that [`Gpu::from_device`] takes.
pub use wgpu;

/// The launches that the ops are made of. Nothing here is promised between versions: names, parameters and what is
/// there may change in any of them.
#[path = "."] // Their files lie beside those of the other modules.
pub mod low_level {
    pub mod catalog;
    pub mod kernels;
}

use low_level::kernels;

/// The crates that macros of this crate need.
#[doc(hidden)]
pub mod __private {
    pub use bytemuck;
}

// What derives that a macro of this crate writes find it by, here as elsewhere.
extern crate self as sdmoe;
