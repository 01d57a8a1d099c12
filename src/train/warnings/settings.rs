//! Settings that are allowed and have no effect or do harm.

use super::kind::{Kind, Warning};
use crate::nn::config::{ExpertMatrix, SharedGate, SpectralConfig};
use crate::train::config::RunConfig;

/// Settings that are allowed and have no effect or do harm. Each message begins with the setting.
pub fn settings_warnings(config: &RunConfig) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |doubtful: bool, kind: Kind, message: String| {
        if doubtful {
            found.push(Warning { kind, step: None, message });
        }
    };
    let moe = &config.model.moe;
    let chooses = moe.top_k < moe.experts;
    let rest = if moe.balance_loss > 0.0 || moe.z_loss > 0.0 {
        "only its auxiliary losses train it"
    } else {
        "nothing trains it"
    };
    warn(
        moe.top_k == 1 && moe.renormalize,
        Kind::RouterWithoutGradient,
        format!(
            "model.moe.renormalize = true with model.moe.top_k = 1: the one weight of a token is always 1, so the loss gives \
             the router no gradient and {rest}; set renormalize = false"
        ),
    );
    warn(
        moe.scaling == 0.0,
        Kind::ExpertsWithoutOutput,
        "model.moe.scaling = 0: the output of the routed experts is multiplied by 0 and they learn nothing".into(),
    );
    warn(
        moe.shared_gate == SharedGate::Sigmoid && moe.d_shared == 0,
        Kind::GateWithoutExpert,
        "model.moe.shared_gate = \"sigmoid\" has no effect: model.moe.d_shared = 0, there is no shared expert to gate"
            .into(),
    );
    warn(
        moe.balance_bias > 0.0 && !chooses,
        Kind::BalanceWithoutChoice,
        "model.moe.balance_bias has no effect: every token visits every expert".into(),
    );
    spectral(&config.spectral, config, &mut warn);
    let (adam, steps) = (&config.optimizer, config.train.steps);
    warn(
        adam.warmup_steps > steps,
        Kind::WarmupWithoutEnd,
        format!(
            "optimizer.warmup_steps = {} is more than train.steps = {steps}: the learning rate never reaches optimizer.lr",
            adam.warmup_steps
        ),
    );
    warn(
        adam.lr * adam.weight_decay >= 1.0,
        Kind::DecayOvershoots,
        format!(
            "optimizer.weight_decay = {} times optimizer.lr = {} is {}: each step at that rate takes whole weights away; \
             expected well below 1",
            adam.weight_decay,
            adam.lr,
            adam.lr * adam.weight_decay
        ),
    );
    found
}

fn spectral(spectral: &SpectralConfig, config: &RunConfig, warn: &mut impl FnMut(bool, Kind, String)) {
    let twice = |m: &ExpertMatrix| spectral.matrices.iter().filter(|other| *other == m).count() > 1;
    if let Some(matrix) = ExpertMatrix::ALL.iter().find(|m| spectral.enabled && twice(m)) {
        let message = format!("spectral.matrices names {} twice; once is enough", matrix.name());
        warn(true, Kind::MatrixTwice, message);
    }
    let nothing = spectral.rank == 0 || spectral.matrices.is_empty();
    let what = if spectral.rank == 0 { "spectral.rank = 0" } else { "spectral.matrices = []" };
    warn(
        spectral.enabled && nothing,
        Kind::NothingDecoupled,
        format!("{what}: nothing is decoupled, although spectral.enabled = true"),
    );
    if !spectral.enabled || nothing {
        return;
    }
    let model = &config.model;
    warn(
        model.moe.experts == 1,
        Kind::NothingDecoupled,
        "model.moe.experts = 1: with a single expert there is nothing that experts could have in common; decoupling only \
         divides its matrix"
            .into(),
    );
    let full = model.d_model.min(model.moe.d_expert);
    warn(
        spectral.rank == full,
        Kind::NothingUnique,
        format!(
            "spectral.rank = {full} is all of min(d_model, d_expert): every gradient is common, and what tells the experts \
             apart only decays"
        ),
    );
    // At its default the interval is no choice that a short trial run should be warned of.
    let chosen = spectral.refresh_every != SpectralConfig::default().refresh_every;
    warn(
        chosen && spectral.refresh_every > config.train.steps,
        Kind::NeverRefreshed,
        format!(
            "spectral.refresh_every = {} is more than train.steps = {}: the bases stay as they were drawn",
            spectral.refresh_every, config.train.steps
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::config::Preset;

    fn kinds(change: impl FnOnce(&mut RunConfig)) -> Vec<Kind> {
        let mut config = RunConfig::preset(Preset::Tiny);
        change(&mut config);
        config.validate().unwrap();
        let found = settings_warnings(&config);
        assert!(found.iter().all(|w| !w.message.contains('\n') && w.step.is_none()), "{found:?}");
        found.into_iter().map(|w| w.kind).collect()
    }

    #[test]
    fn the_presets_give_no_warning() {
        for preset in [Preset::Tiny, Preset::Small, Preset::Base] {
            assert_eq!(settings_warnings(&RunConfig::preset(preset)), []);
        }
        // A short trial run with everything else as it is.
        assert_eq!(kinds(|c| (c.train.steps, c.optimizer.warmup_steps) = (4, 1)), []);
    }

    #[test]
    fn settings_without_effect_or_with_harm_are_told() {
        use Kind::*;
        assert_eq!(kinds(|c| c.model.moe.top_k = 1), [RouterWithoutGradient]);
        assert_eq!(kinds(|c| (c.model.moe.top_k, c.model.moe.renormalize) = (1, false)), []);
        assert_eq!(kinds(|c| c.model.moe.scaling = 0.0), [ExpertsWithoutOutput]);
        let gate = |c: &mut RunConfig| c.model.moe.shared_gate = SharedGate::Sigmoid;
        assert_eq!(kinds(gate), []);
        assert_eq!(kinds(|c| (gate(c), c.model.moe.d_shared = 0).1), [GateWithoutExpert]);
        assert_eq!(kinds(|c| c.model.moe.balance_bias = 0.1), []);
        assert_eq!(kinds(|c| (c.model.moe.balance_bias, c.model.moe.top_k) = (0.1, 8)), [BalanceWithoutChoice]);
        assert_eq!(kinds(|c| c.spectral.matrices.push(ExpertMatrix::Up)), [MatrixTwice]);
        assert_eq!(kinds(|c| c.spectral.matrices.clear()), [NothingDecoupled]);
        assert_eq!(kinds(|c| c.spectral.rank = 0), [NothingDecoupled]);
        assert_eq!(kinds(|c| (c.spectral.rank, c.spectral.enabled) = (0, false)), []);
        assert_eq!(kinds(|c| (c.model.moe.d_expert, c.spectral.rank) = (8, 8)), [NothingUnique]);
        assert_eq!(kinds(|c| c.spectral.refresh_every = 301), [NeverRefreshed]);
        assert_eq!(kinds(|c| c.optimizer.warmup_steps = 301), [WarmupWithoutEnd]);
        assert_eq!(kinds(|c| c.optimizer.weight_decay = 400.0), [DecayOvershoots]);
        let one = kinds(|c| (c.model.moe.experts, c.model.moe.top_k) = (1, 1));
        assert_eq!(one, [RouterWithoutGradient, NothingDecoupled]);
    }

    #[test]
    fn the_message_names_the_setting_and_what_still_trains_the_router() {
        let mut config = RunConfig::preset(Preset::Tiny);
        config.model.moe.top_k = 1;
        let message = settings_warnings(&config)[0].message.clone();
        assert!(message.starts_with("model.moe.renormalize = true with model.moe.top_k = 1: "), "{message}");
        assert!(message.contains("only its auxiliary losses train it"), "{message}");
        (config.model.moe.balance_loss, config.model.moe.z_loss) = (0.0, 0.0);
        assert!(settings_warnings(&config)[0].message.contains("nothing trains it"));
    }
}
