//! Runs that are warned of their settings and of what training measured.

use super::{lines, place, summary, tiny};
use sdmoe::train::config::RunConfig;
use sdmoe::train::warnings::Kind;

/// Settings whose router gets no gradient, and whose experts die.
fn frozen_router() -> RunConfig {
    let mut config = tiny();
    (config.model.moe.top_k, config.model.moe.balance_loss, config.model.moe.z_loss) = (1, 0.0, 0.0);
    // Two sequences of the same words: few different tokens.
    (config.train.steps, config.train.seq, config.train.eval_every) = (3, 32, 1);
    config
}

#[test]
fn doubtful_settings_and_dead_experts_are_told_once_and_stand_in_summary_and_report() {
    let place = place(&frozen_router());
    let told = |args: &str| {
        let output = place.command(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said.lines().filter(|l| l.starts_with("warning: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let loud = told("train --config run.toml --out a");
    assert!(loud[0].contains("model.moe.renormalize = true with model.moe.top_k = 1"), "{loud:?}");
    assert!(loud[0].contains("nothing trains it"), "{loud:?}");
    let warnings = summary(&place.path("a")).warnings;
    assert_eq!(loud, warnings.iter().map(|w| format!("warning: {}", w.message)).collect::<Vec<_>>());
    let kinds: Vec<Kind> = warnings.iter().map(|w| w.kind).collect();
    assert!(kinds.starts_with(&[Kind::RouterWithoutGradient]) && kinds.contains(&Kind::DeadExperts), "{kinds:?}");
    let mut once = kinds.clone();
    once.dedup();
    assert_eq!(once, kinds);
    // What the metrics say without the warnings.
    assert!(lines(&place.path("a/metrics.jsonl")).iter().any(|l| l.dead_experts > Some(0)));
    let page = place.read("a/analysis/report.html");
    assert!(page.contains("What to be wary of") && page.contains("got no token, where an even load is 16 tokens"));
    assert!(place.read("a/analysis/analysis.json").contains("\"kind\":\"dead_experts\""));
    // Quiet about the progress, not about these; and a resumed run knows what was told before.
    assert_eq!(told("train --config run.toml --out b --quiet --report off"), loud);
    let resumed = told("train --resume a --steps 5 --report off");
    assert!(!resumed.iter().any(|l| l.contains("got no token")), "{resumed:?}");
    // What only the last step of a run showed is judged anew.
    let kinds: Vec<Kind> = summary(&place.path("a")).warnings.iter().map(|w| w.kind).collect();
    assert!(kinds.starts_with(&[Kind::RouterWithoutGradient]), "{kinds:?}");
}

#[test]
fn a_run_without_fault_is_not_warned_of() {
    let place = place(&tiny());
    place.runs("train --config run.toml --out a --quiet");
    assert_eq!(summary(&place.path("a")).warnings, []);
    assert!(!place.read("a/analysis/report.html").contains("What to be wary of"));
}
