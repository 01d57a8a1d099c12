//! The results of a verification.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Level;
use super::header::{Header, Host};
use super::reference::Difference;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Otherwise, in words.
    Failed {
        /// Both values, or the error.
        message: String,
    },
    /// It failed, and the table of known failures says why.
    KnownFailure {
        /// Both values, or the error.
        message: String,
        /// The table's reason.
        reason: String,
    },
    /// It did not run.
    NotRun {
        /// Names what was missing.
        reason: String,
    },
}

impl Outcome {
    /// The name, as reports have it.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed { .. } => "failed",
            Outcome::KnownFailure { .. } => "known failure",
            Outcome::NotRun { .. } => "not run",
        }
    }
}

/// One case.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CaseReport {
    /// The name; stable, scripts read it. Its group is what stands before the last `/`.
    pub name: String,
    /// The family of kernels, `f16` after it where activations were stored in that; `driver` for a probe.
    pub variant: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The error of the comparison that came closest to its tolerance, in units of what was compared; none where bits were compared.
    pub worst_error: Option<f64>,
    /// That error over its tolerance: above 1 is a failure.
    pub share_of_tolerance: Option<f64>,
    /// Seconds that it took, the reference on the CPU included.
    pub seconds: f64,
    /// The same case on the adapter that [`super::Options::reference`] names; none where it cannot run there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Beside>,
    /// Notes that decide nothing: how a driver behaves where WGSL leaves it free.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl CaseReport {
    /// The group: the name up to the last `/`.
    pub fn group(&self) -> &str {
        self.name.rsplit_once('/').map_or(self.name.as_str(), |(group, _)| group)
    }
}

/// A case on another adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Beside {
    /// How it ended there.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How far the results are apart; none for a case that compares something else than numbers it repeats.
    pub difference: Option<Difference>,
}

/// The results on one adapter.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AdapterResult {
    /// The adapter.
    pub header: Header,
    /// The adapter and driver that its results were set beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The cases, in the order in which they ran.
    pub cases: Vec<CaseReport>,
    /// The kernels that the cases launched, by name; those of cases that ended with an error, hung or opened a device of
    /// their own left out.
    pub kernels: BTreeSet<&'static str>,
    /// Seconds that all took.
    pub seconds: f64,
}

impl AdapterResult {
    /// How many cases ended so.
    pub fn count(&self, name: &str) -> usize {
        self.cases.iter().filter(|case| case.outcome.name() == name).count()
    }
}

/// The results on all adapters.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The machine and the program.
    pub host: Host,
    /// How much was verified.
    pub level: Level,
    /// The seed of the random numbers.
    pub seed: u64,
    /// Seconds since 1970, when it began.
    pub unix_time: u64,
    /// The adapters.
    pub adapters: Vec<AdapterResult>,
}

/// The verdict of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that ran ended as expected.
    AsExpected,
    /// Something failed.
    Failures,
    /// Nothing ran.
    NothingRan,
}

impl Report {
    /// Returns the verdict.
    pub fn verdict(&self) -> Verdict {
        let count = |name| self.adapters.iter().map(|adapter| adapter.count(name)).sum::<usize>();
        if count("failed") > 0 {
            Verdict::Failures
        } else if count("passed") + count("known failure") == 0 {
            Verdict::NothingRan
        } else {
            Verdict::AsExpected
        }
    }

    /// The verdict in a line.
    pub fn summary(&self) -> String {
        let count = |name| self.adapters.iter().map(|adapter| adapter.count(name)).sum::<usize>();
        let seconds: f64 = self.adapters.iter().map(|adapter| adapter.seconds).sum();
        let verdict = match self.verdict() {
            Verdict::AsExpected => "as expected",
            Verdict::Failures => "FAILURES",
            Verdict::NothingRan => "nothing ran",
        };
        let [passed, failed, known, not_run] = ["passed", "failed", "known failure", "not run"].map(count);
        let known_text = if known > 0 { format!(", {known} known failures") } else { String::new() };
        format!("{verdict}: {passed} passed, {failed} failed{known_text}, {not_run} not run, {seconds:.1} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_the_name_up_to_the_last_slash() {
        let case = |name: &str| CaseReport {
            name: name.into(),
            variant: String::new(),
            outcome: Outcome::Passed,
            worst_error: None,
            share_of_tolerance: None,
            seconds: 0.0,
            reference: None,
            notes: Vec::new(),
        };
        assert_eq!(case("op/rms_norm/7x33").group(), "op/rms_norm");
        assert_eq!(case("alone").group(), "alone");
    }
}
