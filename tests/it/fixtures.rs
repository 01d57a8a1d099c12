//! Every fixture found, against the reference values in it: the folder named by `SDMOE_FIXTURES`, or `tests/fixtures`.

use crate::fixtures_support::{Runner, block, cases, decouple, entries, hf, linalg, metrics, root, spectral, text};

/// The groups that are run, each by a test below.
const RUN: [&str; 8] = ["block", "checkpoints", "decouple", "hf", "linalg", "metrics", "sdmoe", "tokenizer"];

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
fn models_are_decoupled_without_changing_what_they_compute() {
    run("decouple", decouple::run);
}

/// Runs a check on every model of a published family that is there; it says whether the files had what it needs.
fn run_families(tiers: &[sdmoe::Gpu], check: impl Fn(&sdmoe::Gpu, &hf::Stored) -> Result<bool, String>) {
    let all = hf::stored(&root().join("hf")).unwrap_or_else(|e| panic!("{e}"));
    let (mut failures, mut held) = (Vec::new(), Vec::new());
    for stored in &all {
        for gpu in tiers {
            match check(gpu, stored) {
                Ok(true) => held.push((&stored.name, gpu.tier())),
                Ok(false) => {}
                Err(error) => failures.push(format!("{} ({:?}): {error}", stored.name, gpu.tier())),
            }
        }
    }
    println!("{} models, held: {held:?}", all.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(!held.is_empty(), "no model found in {}", root().display());
}

#[test]
fn models_of_published_families_compute_what_transformers_computes() {
    run_families(&crate::common::tiers(), |gpu, stored| hf::forward(gpu, stored).map(|()| true));
}

#[test]
fn models_of_published_families_have_the_gradients_that_pytorch_finds() {
    run_families(&crate::common::tiers(), hf::gradients);
}

#[test]
fn models_of_published_families_train_as_in_pytorch() {
    // All tiers have the same gradients, and the optimizer has tests of its own.
    run_families(&[crate::common::gpu()], |gpu, stored| hf::trajectory(gpu, stored).map(|()| true));
}

#[test]
fn yarn_turns_by_the_angles_of_transformers() {
    run_families(&crate::common::tiers(), hf::yarn);
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    // `cached_attention` has all tiers.
    run_families(&[crate::common::gpu()], hf::continuations);
}

#[test]
fn tokenizers_and_chat_templates_give_the_ids_and_texts_of_transformers() {
    let folders = text::folders(&root().join("tokenizer")).unwrap_or_else(|e| panic!("{e}"));
    assert!(!folders.is_empty());
    for folder in folders {
        let cases = text::tokenizer(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        assert!(cases > 40, "{cases} cases");
    }
}

#[test]
fn downloaded_checkpoints_of_16_bits_compute_and_go_on_as_in_transformers() {
    let folders = text::folders(&root().join("checkpoints")).unwrap_or_else(|e| panic!("{e}"));
    assert!(!folders.is_empty());
    let gpu = crate::common::gpu();
    for folder in folders {
        text::checkpoint(&gpu, &folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    }
}

#[test]
fn perplexity_by_a_sliding_window_is_that_of_transformers() {
    let gpu = crate::common::gpu();
    let folders = text::folders(&root().join("hf")).unwrap_or_else(|e| panic!("{e}"));
    let held = folders
        .iter()
        .filter(|folder| text::sliding_window(&gpu, folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())));
    assert!(held.count() > 0, "no perplexity.json in {}", root().display());
}

#[test]
fn no_group_is_left_out() {
    let groups = entries(&root(), true).unwrap_or_else(|e| panic!("{e}"));
    let missing: Vec<_> = groups.iter().filter(|g| !RUN.contains(&g.as_str())).collect();
    assert!(missing.is_empty(), "groups that no test runs: {missing:?}");
}
