//! `sdmoe verify`: whether this machine's drivers compute the right thing.
//!
//! [`run`] opens each family of kernels that an adapter can run and compares what it gives with f64 on the CPU: every op forward and
//! backward, products in every form and shape, routing, reductions, the optimizer, the spectral split, factorisations, whole training
//! steps. Before that come probes of the driver itself (`probes`): small shaders that each show one class of bug. [`shader`] is the
//! harness below the probes, for anybody's compute shader.
//!
//! Tolerances come from the computation; the report tells the worst error of each case as a share of it.
//! Everything runs twice with the pool's memory poisoned in between, and must give the same bits. Nothing here is needed to train; it
//! reads the clock, starts a thread for each case, so that one that hangs is told, and blocks. In a browser, which has no threads and
//! must not be blocked, [`run_without_threads`] does the same; the page `verify.html` of `scripts/build-web` shows it.

mod attempt;
mod cases;
mod context;
mod dump;
mod header;
mod known;
mod one;
mod probes;
mod reference;
mod render;
mod report;
mod runner;
pub mod shader;
#[cfg_attr(target_arch = "wasm32", path = "no_thread.rs")]
mod thread;

use std::path::PathBuf;
use std::time::Duration;

pub use dump::{Replayed, replay, write_shader};
pub use header::{Header, Host};
pub use reference::Difference;
pub use render::{beside, junit, line, markdown, told};
pub use report::{AdapterResult, Beside, CaseReport, Outcome, Report, Verdict};
pub use runner::{names, run, run_without_threads};

use crate::gpu::{AdapterChoice, GpuOptions};

/// How much is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Most kernels once or twice: the others are variants for shapes of their own.
    Quick,
    /// Awkward shapes of every kernel.
    #[default]
    Usual,
    /// Also what is large: more than 65,535 workgroups, tensors beyond a binding, every tile of a product in every form.
    Full,
}

impl Level {
    /// The name, as reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Quick => "quick",
            Level::Usual => "usual",
            Level::Full => "full",
        }
    }

    /// The level of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Level::Quick, Level::Usual, Level::Full].into_iter().find(|level| level.name() == name)
    }
}

/// Options of [`run`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The adapter, and the tier where only one is wanted; the rest as for training.
    pub gpu: GpuOptions,
    /// Every adapter of the machine instead.
    pub all: bool,
    /// Another adapter, on which each case also runs: how it ends there, and how far the results are apart.
    pub reference: Option<AdapterChoice>,
    /// Only cases whose name contains this.
    pub filter: Option<String>,
    /// How much.
    pub level: Level,
    /// Chooses the random numbers.
    pub seed: u64,
    /// How long a case may take before it counts as hung.
    pub timeout: Duration,
    /// A folder for what is needed to run a failed case again, one folder for each.
    pub dump: Option<PathBuf>,
    /// The name of an adapter of which wgpu knows none: in a browser, which tells it to the page.
    pub adapter_name: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gpu: GpuOptions::default(),
            all: false,
            reference: None,
            filter: None,
            level: Level::default(),
            seed: 1,
            timeout: Duration::from_secs(120),
            dump: None,
            adapter_name: None,
        }
    }
}

/// An event while [`run`] works.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An adapter begins.
    Adapter(&'a Header),
    /// So many cases will run on it, or be told as not run.
    Planned(usize),
    /// A case has ended.
    Case(&'a CaseReport),
    /// All cases of a group have ended on one variant; they follow each other.
    Group(&'a [CaseReport]),
    /// A device had to be opened anew after this case.
    Reopened(&'a str),
}

/// The training run of the cases `training/*`, for the test that computes its losses in f64: settings, text, losses.
#[doc(hidden)]
pub fn training_reference() -> (crate::train::config::RunConfig, Vec<u8>, &'static [f64]) {
    cases::training::reference()
}
