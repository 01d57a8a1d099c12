//! The warnings of a run: settings that have no effect or do harm, before it starts, and what its metrics say of
//! experts that die, a load that collapses and a decoupling that is lost, while it goes on.
//!
//! A warning stops nothing. It is told once, on one line, and stands in `summary.json` and in the report. What training is
//! warned of follows from the settings and the lines of `metrics.jsonl` alone, so that a resumed run and a report find the same.

mod kind;
mod settings;
mod watcher;

pub use kind::{Kind, Warning};
pub use settings::settings_warnings;
#[cfg(feature = "cli")]
pub(crate) use watcher::CLOSED_GAP;
pub use watcher::Watcher;
#[cfg(feature = "files")]
pub use watcher::of_metrics;
