//! Warnings for which the lines of `metrics.jsonl` give reason.

use std::collections::BTreeSet;
#[cfg(feature = "files")]
use std::path::Path;

use super::kind::{Kind, Warning};
use super::settings::settings_warnings;
#[cfg(feature = "files")]
use crate::error::{Error, Result};
use crate::train::config::RunConfig;
use crate::train::metrics::StepMetrics;

/// Tokens that an expert must get in a step on average, for one without any to be called dead: of tokens that choose at random
/// so many pass an expert by with a probability of `e^-16`, 1e-7.
const ENOUGH_TOKENS: f64 = 16.0;
/// How many times the even load is too much: an expert then works for three and learns what three should.
const OVERLOAD: f32 = 3.0;
/// The load has collapsed where the number of experts in use, `exp(entropy)`, is at most this part of the way from K, where all
/// tokens go to the same experts, to E, where the load is even.
const COLLAPSED: f64 = 0.25;
/// `sigma_k / sigma_(k+1)` of `W_c` below which the k-th common direction is not determined: what training adds to `W_c` between
/// two refreshes is some percent of `sigma_k`, and a change of the gap's size exchanges the two directions (Wedin 1972).
pub(crate) const CLOSED_GAP: f32 = 1.1;
/// The part of what a random matrix has inside the common basis, `sqrt(k / width)`, from which on `W_u` counts as drifted: with
/// `realign` it stays below 1e-3, as published it ends at nine tenths (docs/experiments.md).
const DRIFTED: f64 = 0.5;

/// Hears the lines of `metrics.jsonl` and tells each kind of warning once.
#[derive(Clone, Debug)]
pub struct Watcher {
    config: RunConfig,
    told: BTreeSet<Kind>,
    /// The warnings that the last measurement of the load, and of the decoupling, gave reason for.
    before: [BTreeSet<Kind>; 2],
    warnings: Vec<Warning>,
}

impl Watcher {
    /// For a run with these settings, whose own warnings come first.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            config: config.clone(),
            told: BTreeSet::new(),
            before: Default::default(),
            warnings: settings_warnings(config),
        }
    }

    /// All warnings so far.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The warnings that a line gives reason for and that have not been told yet. A step is a sample, so a figure counts where
    /// the measurement before says the same, or where it is of the last step.
    pub fn hear(&mut self, line: &StepMetrics) -> Vec<Warning> {
        let last = line.step == self.config.train.steps;
        let mut found = Vec::new();
        if line.dead_experts.is_some() {
            let load = self.load(line);
            found.extend(confirmed(&mut self.before[0], last, load));
        }
        if line.spectral.as_ref().is_some_and(|block| block.drift_model.is_some()) {
            let decoupling = self.decoupling(line);
            found.extend(confirmed(&mut self.before[1], last, decoupling));
        }
        found.retain(|warning| self.told.insert(warning.kind));
        self.warnings.extend(found.iter().cloned());
        found
    }

    fn load(&self, line: &StepMetrics) -> Vec<Warning> {
        let (train, moe) = (&self.config.train, &self.config.model.moe);
        let mut found = Vec::new();
        let mut warn = |kind, message| found.push(Warning { kind, step: Some(line.step), message });
        let (e, k) = (moe.experts as f64, moe.top_k as f64);
        if moe.top_k >= moe.experts {
            return found;
        }
        let each = (train.batch * train.seq) as f64 * train.accumulate as f64 * k / e;
        if each < ENOUGH_TOKENS {
            return found;
        }
        let remedy = if moe.balance_loss == 0.0 && moe.balance_bias == 0.0 {
            "nothing balances the load: see model.moe.balance_loss and balance_bias"
        } else {
            "a larger model.moe.balance_loss or balance_bias balances more"
        };
        if let Some(dead) = line.dead_experts.filter(|&dead| dead > 0) {
            let all = moe.experts * self.config.model.moe_layers().len();
            warn(
                Kind::DeadExperts,
                format!(
                    "step {}: {dead} of the {all} experts got no token, where an even load is {each:.0} tokens each; an expert \
                     without tokens learns nothing; {remedy}",
                    line.step
                ),
            );
        }
        if let Some(load) = line.load_max_violation.map(|v| v + 1.0).filter(|&load| load >= OVERLOAD) {
            warn(
                Kind::Overload,
                format!(
                    "step {}: one expert has {load:.1} times the even load, in the worst layer; {remedy}",
                    line.step
                ),
            );
        }
        if let Some(entropy) = line.load_entropy {
            let used = (f64::from(entropy) * e.ln()).exp();
            if used <= k + COLLAPSED * (e - k) {
                warn(
                    Kind::LoadCollapsed,
                    format!(
                        "step {}: the load has collapsed: in the worst layer its entropy is that of {used:.1} experts of {e}, and \
                         {k} is the least there can be; the others are wasted; {remedy}",
                        line.step
                    ),
                );
            }
        }
        found
    }

    fn decoupling(&self, line: &StepMetrics) -> Vec<Warning> {
        let spectral = &self.config.spectral;
        let model = &self.config.model;
        let mut found = Vec::new();
        let Some(block) = line.spectral.as_ref().filter(|_| spectral.decouples()) else { return found };
        let mut warn = |kind, message| found.push(Warning { kind, step: Some(line.step), message });
        if let Some(gap) = block.common_gap.filter(|&gap| gap < CLOSED_GAP) {
            warn(
                Kind::GapClosed,
                format!(
                    "step {}: sigma_k / sigma_(k+1) of the common matrices is {gap:.3} (median): nothing sets the k = {} common \
                     directions apart from the next, and the bases may turn at every refresh; choose another spectral.rank",
                    line.step, spectral.rank
                ),
            );
        }
        // Experts that were there before they were decoupled leave the common basis at the first refresh.
        if block.common_gap.is_none() && block.common_energy_beyond_rank.is_none() {
            return found;
        }
        let sides = [("model", block.drift_model, model.d_model), ("hidden", block.drift_hidden, model.moe.d_expert)];
        for (side, drift, width) in sides {
            let random = (spectral.rank as f64 / width as f64).sqrt();
            // Where nothing unique is left the settings' own warning has said it.
            let limit = DRIFTED * random;
            if let Some(drift) = drift.map(f64::from).filter(|&d| d >= limit && random < 1.0) {
                warn(
                    Kind::Drifted,
                    format!(
                        "step {}: {drift:.2} of the unique parts lies inside the common basis on the {side} side, where a random \
                         matrix has {random:.2}: the experts are hardly decoupled any more; spectral.realign = \"absorb\" with \
                         project_update = true keeps them apart",
                        line.step
                    ),
                );
                break;
            }
        }
        found
    }
}

/// Those of `found` that the measurement `before` has found too, or all at the `last`; `before` becomes this one.
fn confirmed(before: &mut BTreeSet<Kind>, last: bool, found: Vec<Warning>) -> Vec<Warning> {
    let now = found.iter().map(|warning| warning.kind).collect();
    let before = std::mem::replace(before, now);
    found.into_iter().filter(|warning| last || before.contains(&warning.kind)).collect()
}

/// The warnings of a run with these settings whose metrics are at `path`; a line that the run could not finish counts for nothing.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] for a whole line that is none of a run's.
#[cfg(feature = "files")]
pub fn of_metrics(config: &RunConfig, path: &Path) -> Result<Watcher> {
    let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
    let mut watcher = Watcher::new(config);
    for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n')) {
        let line = serde_json::from_str(line).map_err(|e| {
            Error::checkpoint(path, format!("line {}: expected the metrics of a step: {e}", number + 1))
        })?;
        watcher.hear(&line);
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::config::Preset;
    use crate::train::metrics::SpectralMetrics;

    /// 4 layers of 8 experts, top 2, 1024 tokens a step: 256 each.
    fn line(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            dead_experts: Some(0),
            load_max_violation: Some(0.5),
            load_entropy: Some(0.95),
            spectral: Some(SpectralMetrics {
                common_gap: Some(5.0),
                drift_model: Some(0.01),
                drift_hidden: Some(0.01),
                ..SpectralMetrics::default()
            }),
            ..StepMetrics::default()
        }
    }

    /// The warning where two measurements in a row say the same.
    fn heard(watcher: &mut Watcher, line: &StepMetrics) -> Vec<Kind> {
        let told = [watcher.hear(line), watcher.hear(line)].concat();
        told.into_iter().map(|w| w.kind).collect()
    }

    #[test]
    fn one_measurement_is_believed_at_the_last_step_only() {
        let mut watcher = Watcher::new(&RunConfig::preset(Preset::Tiny));
        let mut bad = line(50);
        bad.dead_experts = Some(3);
        bad.spectral.as_mut().unwrap().common_gap = Some(1.0);
        assert_eq!(watcher.hear(&bad), []);
        assert_eq!(watcher.hear(&line(100)), []);
        bad.step = 150;
        assert_eq!(watcher.hear(&bad), []);
        // Steps at which nothing was measured are between two measurements.
        assert_eq!(watcher.hear(&StepMetrics { step: 155, ..StepMetrics::default() }), []);
        bad.step = 200;
        assert_eq!(watcher.hear(&bad).len(), 2);
        let mut watcher = Watcher::new(&RunConfig::preset(Preset::Tiny));
        bad.step = 300;
        assert_eq!(watcher.hear(&bad).len(), 2, "the last of 300 steps");
    }

    #[test]
    fn each_kind_is_told_once_when_the_figures_cross_its_line() {
        use Kind::*;
        let mut watcher = Watcher::new(&RunConfig::preset(Preset::Tiny));
        assert_eq!(heard(&mut watcher, &line(5)), []);
        assert_eq!(heard(&mut watcher, &StepMetrics::default()), [], "nothing measured, nothing told");
        let mut bad = line(10);
        bad.dead_experts = Some(3);
        assert_eq!(watcher.hear(&bad), []);
        let told = watcher.hear(&bad);
        assert_eq!((told[0].kind, told[0].step), (DeadExperts, Some(10)));
        assert!(
            told[0]
                .message
                .contains("step 10: 3 of the 32 experts got no token, where an even load is 256 tokens each")
        );
        bad.step = 15;
        assert_eq!(heard(&mut watcher, &bad), [], "told once");
        bad.load_max_violation = Some(2.0);
        assert_eq!(heard(&mut watcher, &bad), [Overload]);
        // 3.4 of 8 experts; from 3.5 on it is no collapse.
        bad.load_entropy = Some((3.4f32.ln()) / 8f32.ln());
        assert_eq!(heard(&mut watcher, &bad), [LoadCollapsed]);
        let block = bad.spectral.as_mut().unwrap();
        (block.common_gap, block.drift_hidden) = (None, Some(0.13));
        assert_eq!(heard(&mut watcher, &bad), [], "no refresh yet");
        bad.spectral.as_mut().unwrap().common_gap = Some(1.05);
        assert_eq!(heard(&mut watcher, &bad), [GapClosed, Drifted]);
        let all: Vec<_> = watcher.warnings().iter().map(|w| (w.kind, w.step)).collect();
        assert_eq!(
            all,
            [
                (DeadExperts, Some(10)),
                (Overload, Some(15)),
                (LoadCollapsed, Some(15)),
                (GapClosed, Some(15)),
                (Drifted, Some(15))
            ]
        );
        assert!(watcher.warnings().iter().all(|w| !w.message.contains('\n')));
    }

    #[test]
    fn what_a_few_tokens_do_by_chance_is_not_told() {
        let mut config = RunConfig::preset(Preset::Tiny);
        // 60 tokens for 8 experts, two each: 15 an expert.
        (config.train.batch, config.train.seq) = (1, 60);
        let mut few = line(1);
        (few.dead_experts, few.load_entropy) = (Some(9), Some(0.1));
        assert_eq!(heard(&mut Watcher::new(&config), &few), []);
        config.train.seq = 64;
        assert_eq!(heard(&mut Watcher::new(&config), &few), [Kind::DeadExperts, Kind::LoadCollapsed]);
        // Where every token visits every expert nobody chooses.
        config.model.moe.top_k = 8;
        assert_eq!(heard(&mut Watcher::new(&config), &few), []);
    }

    #[test]
    fn a_plain_run_has_no_decoupling_to_lose() {
        let mut config = RunConfig::preset(Preset::Tiny);
        config.spectral.enabled = false;
        let mut bad = line(1);
        bad.spectral.as_mut().unwrap().common_gap = Some(1.0);
        assert_eq!(heard(&mut Watcher::new(&config), &bad), []);
    }
}
