//! Mixture-of-Experts training with spectral decoupling (SD-MoE, arXiv 2602.12556) on any GPU, through wgpu.
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
//! trains `W_c` with the sum of the `G_c,i` and `W_u,i` with `G_u,i`, and refreshes U and V by a randomized SVD of `W_c` every
//! few steps. All of it runs in WGSL compute shaders, without a readback in the training step.
//!
//! Data flows one way through the modules; each imports only from those before it:
//!
//! | module | what it is |
//! |---|---|
//! | [`error`] | the one error type |
//! | [`gpu`] | the device: adapters and their tiers, kernels bound by name, recorder, buffer pool, timing |
//! | [`tensor`] | a handle to an array on the device |
//! | [`kernels`] | launches that several ops share: matrix products, grouped expert products, routing |
//! | [`autograd`] | the tape, the op trait, the check of forward and backward against an f64 reference |
//! | [`ops`] | the differentiable ops, one a file: equation, launch, backward, reference |
//! | [`linalg`] | random numbers, tall-skinny QR, small SVD, randomized SVD, subspaces |
//! | [`nn`] | layers, the model, its configuration, the spectral state of the experts |
//! | [`optim`] | AdamW, clipping, the gradient split, the refresh of the bases |
//! | [`checkpoint`], [`data`] | safetensors, folders replaced as a whole, experts of any checkpoint; corpus and batches |
//! | [`train`] | the trainer, and a whole run with its metrics |
//! | [`analysis`] | how specialised experts are, each figure beside what chance gives |
//! | [`report`] | what an analysis found, as a page, figures and a table for the terminal |
//! | [`mod@bench`] | how fast it is |
//! | [`catalog`] | the list of all kernels |
//! | [`cli`] | the program, one file a subcommand |
//!
//! The WGSL of a kernel is in `shaders/`, under the kernel's name or its family's. `METHOD` in comments is `docs/method.md`: the
//! equations in one notation.
//!
//! A product on the device, with no GPU at hand an error that says what to install:
//!
//! ```
//! use sdmoe::gpu::{Gpu, GpuOptions};
//! use sdmoe::kernels::gemm::{Trans, gemm};
//! use sdmoe::tensor::Tensor;
//!
//! # fn main() -> sdmoe::Result<()> {
//! pollster::block_on(async {
//!     let gpu = Gpu::open(&GpuOptions::default()).await?;
//!     let a = Tensor::from_f32(&gpu, [2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//!     let c = Tensor::empty_f32(&gpu, [2, 2])?;
//!     gemm(Trans::N, Trans::T, 1.0, &a, &a, 0.0, &c)?; // C = A A^T
//!     assert_eq!(c.to_f32().await?, [14.0, 32.0, 32.0, 77.0]);
//!     Ok(())
//! })
//! # }
//! ```

#[cfg(feature = "analysis")]
pub mod analysis;
pub mod autograd;
#[cfg(feature = "bench")]
pub mod bench;
pub mod catalog;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod error;
mod files;
pub mod gpu;
pub mod kernels;
pub mod linalg;
pub mod nn;
pub mod ops;
pub mod optim;
#[cfg(feature = "analysis")]
pub mod report;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
