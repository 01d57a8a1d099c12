//! Every fixture found, against the reference values in it: the folder named by `SDMOE_FIXTURES`, or `tests/fixtures`.

use crate::fixtures_support::{Runner, block, cases, entries, linalg, metrics, root, spectral};

/// The groups that are run, each by a test below.
const RUN: [&str; 4] = ["block", "linalg", "metrics", "sdmoe"];
/// Groups that these tests pass over by name: their files are whole models, tokenizers and decoupled checkpoints. Of `hf`
/// `checkpoint_experts` reads the experts.
const LATER: [&str; 4] = ["checkpoints", "decouple", "hf", "tokenizer"];

/// Runs every case of a group in every tier; prints how many there were.
fn run(group: &str, runner: Runner) {
    let all = cases(&root().join(group)).unwrap_or_else(|e| panic!("{e}"));
    let mut failures = Vec::new();
    let devices = crate::common::tiers();
    for case in &all {
        for gpu in &devices {
            if let Err(error) = runner(gpu, case) {
                failures.push(format!("{group}/{} ({:?}): {error}", case.name, gpu.tier()));
            }
        }
    }
    println!("{group}: {} cases in {} tiers, {} failures", all.len(), devices.len(), failures.len());
    assert!(!all.is_empty(), "{group}: no case found in {}", root().display());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_expert_layer_case_holds() {
    run("block", block::run);
}

#[test]
fn every_linear_algebra_case_holds() {
    run("linalg", linalg::run);
}

#[test]
fn every_spectral_decoupling_case_holds() {
    run("sdmoe", spectral::run);
}

#[test]
fn every_case_of_the_analysis_holds() {
    run("metrics", metrics::run);
}

#[test]
fn no_group_is_left_out() {
    let groups = entries(&root(), true).unwrap_or_else(|e| panic!("{e}"));
    let missing: Vec<_> =
        groups.iter().filter(|g| !RUN.contains(&g.as_str()) && !LATER.contains(&g.as_str())).collect();
    let later: Vec<_> = groups.iter().filter(|g| LATER.contains(&g.as_str())).collect();
    println!("groups that are passed over: {later:?}");
    assert!(missing.is_empty(), "groups that no test runs: {missing:?}");
}
