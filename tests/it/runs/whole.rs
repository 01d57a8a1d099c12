//! Runs from the first step to the last: what they write, that they repeat, stop and go on bit for bit.

use std::path::Path;

use super::{TEXT, checkpoint, lines, place, session, summary, tiny};
use crate::common::place::{Place, failed};
use sdmoe::nn::config::{GradientForm, Precision};
use sdmoe::optim::Rule;
use sdmoe::train::Outcome;
use sdmoe::train::config::RunConfig;
use sdmoe::train::metrics::StepMetrics;

#[test]
fn a_run_writes_what_the_documents_promise_and_its_config_reproduces_it() {
    let place = place(&tiny());
    let output = place.command("train --config run.toml --out a --quiet").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = String::from_utf8(output.stdout).unwrap();
    for part in ["sample:", "validation loss", "12 steps, 768 bytes", "similarity of the experts, hidden side"] {
        assert!(report.contains(part), "{part} in {report}");
    }
    let metrics = place.read("a/metrics.jsonl");
    let names = "step loss aux_loss lr grad_norm tokens_per_second val_loss load_max_violation dead_experts load_entropy \
                 similarity_merged similarity_unique drift_model drift_hidden common_gap common_energy_beyond_rank \
                 basis_angle common_gradient_share";
    for name in names.split_whitespace() {
        assert!(metrics.contains(&format!("\"{name}\":")), "{name} in {metrics}");
    }
    let text = place.read("a/summary.json");
    let names = "val_loss bits_per_byte tokens_per_second steps tokens parameters active_parameters adapter \
                 peak_gpu_bytes similarity layer matrix side merged unique chance warnings";
    for name in names.split_whitespace() {
        assert!(text.contains(&format!("\"{name}\":")), "{name} in {text}");
    }
    let found = lines(&place.path("a/metrics.jsonl"));
    assert_eq!(found.iter().map(|l| l.step).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    assert!(found[11].loss < 0.9 * found[0].loss, "{} to {}", found[0].loss, found[11].loss);
    let summary = summary(&place.path("a"));
    assert_eq!((summary.steps, summary.tokens, summary.similarity.len()), (12, 768, 6));
    assert_eq!(Some(summary.val_loss), found[11].val_loss);
    assert!(summary.tokens_per_second > 0.0 && summary.peak_gpu_bytes > 0);
    // The first step waits for its kernels.
    assert!(found[0].tokens_per_second.is_none() && found[11].tokens_per_second.is_some(), "{metrics}");

    // Its config alone reproduces it; so does the first command; another seed does not.
    place.runs("train --config a/config.toml --out b --quiet --report off");
    assert_eq!(place.read("a/config.toml"), place.read("b/config.toml"));
    assert!(checkpoint(&place.path("a")) == checkpoint(&place.path("b")), "the same run, other bytes");
    place.runs("train --config run.toml --out c --quiet --report off --seed 2");
    let (a, c) = (checkpoint(&place.path("a")), checkpoint(&place.path("c")));
    assert!(a[0] != c[0] && a[1] != c[1], "another seed, the same bytes");

    // What the checkpoint is good for.
    let shown = place.runs("eval --checkpoint a --data text");
    let loss = |shown: &str| shown.split_whitespace().nth(1).unwrap().parse::<f32>().unwrap();
    assert!((1.0..6.0).contains(&loss(&shown)), "{shown}");
    // Cut so that the held-out tenth is what `eval` covers in the run's own windows: whole batches and the byte before.
    let held_out = 2 * tiny().train.batch * tiny().train.seq + 1;
    let text = place.read("text");
    place.write("text", &text[..10 * held_out]);
    place.write("held-out", &text[9 * held_out..10 * held_out]);
    place.runs("train --config run.toml --out d --quiet --report off");
    let shown = place.runs("eval --checkpoint d/checkpoint --data held-out");
    let own = self::summary(&place.path("d"));
    // What is printed has four digits.
    assert!((loss(&shown) - own.val_loss).abs() <= 6e-5, "{shown}, the run's own {}", own.val_loss);
    assert!(shown.contains(&format!("over {} bytes", held_out - 1)), "{shown}");
    let generate = |flags: &str| place.runs(&format!("generate --checkpoint a --prompt brown --tokens 20 {flags}"));
    let text = generate("--seed 5");
    assert!(text.starts_with("brown") && text.len() > 5, "{text}");
    assert_eq!(text, generate("--seed 5"));
    assert_ne!(text, generate("--seed 6"));
    assert_eq!(generate("--temperature 0 --seed 5"), generate("--temperature 0 --seed 6"));
}

#[test]
fn interrupted_and_resumed_equals_uninterrupted_bit_for_bit() {
    type Change = fn(&mut RunConfig);
    let cases: [(&str, Change); 6] = [
        ("direct form, two micro-batches, bias balancing", |c| {
            c.train.accumulate = 2;
            c.model.moe.balance_bias = 0.01;
            c.spectral.gradient_form = GradientForm::Direct;
        }),
        ("token-space form", |c| c.spectral.gradient_form = GradientForm::TokenSpace),
        ("plain", |c| c.spectral.enabled = false),
        ("muon", |c| c.optimizer.rule = Rule::Muon),
        ("muon, plain", |c| (c.optimizer.rule, c.spectral.enabled) = (Rule::Muon, false)),
        // The loss scale doubles every other step; the first step overflows.
        ("mixed precision", |c| {
            c.train.precision = Precision::F16;
            (c.optimizer.loss_scale, c.optimizer.loss_scale_every) = (16_777_216.0, 2);
        }),
    ];
    for (case, change) in cases {
        let mut config = tiny();
        change(&mut config);
        config.train.steps = 7;
        let place = Place::new();
        let (whole, parts) = (place.path("whole"), place.path("parts"));
        let Outcome::Finished { summary, sample } = session(&config, &whole, false) else { panic!("{case}: stopped") };
        // Between two refreshes, and right behind one.
        for step in 1..=2 {
            assert_eq!(session(&config, &parts, true), Outcome::Interrupted { step }, "{case}");
        }
        let Outcome::Finished { summary: last, sample: text } = session(&config, &parts, false) else {
            panic!("{case}: stopped")
        };
        assert!(checkpoint(&whole) == checkpoint(&parts), "{case}: other bytes");
        assert_eq!((summary.val_loss, summary.similarity, sample), (last.val_loss, last.similarity, text), "{case}");
        let timeless = |run: &Path| {
            let lines = lines(&run.join("metrics.jsonl"));
            lines.into_iter().map(|l| with!(StepMetrics { tokens_per_second: None, ..l })).collect::<Vec<_>>()
        };
        assert_eq!(timeless(&whole), timeless(&parts), "{case}");
    }
}

#[test]
fn a_second_run_in_the_same_folder_sees_the_same_data() {
    let mut config = tiny();
    (config.train.steps, config.data.paths) = (2, Vec::new());
    let place = Place::new();
    place.write("run.toml", config.to_toml().unwrap());
    place.write("texts/a.txt", TEXT.repeat(90));
    let train = |out: &str| {
        // The first run's report is one of the folders that are passed over; those of the others would be no others.
        let report = if out == "out/first" { "on" } else { "off" };
        let args = format!("train --config run.toml --data . --out {out} --report {report}");
        let output = place.command(&args).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        told.lines().find(|l| l.starts_with("data:")).unwrap().to_owned()
    };
    let (first, second) = (train("out/first"), train("second"));
    let passed = " (2 folders of sdmoe's own runs and reports passed over)";
    assert_eq!(train("third"), first.replace("2 files:", &format!("2 files{passed}:")));
    assert_eq!(second, first.replace("2 files:", "2 files (1 folder of sdmoe's own runs and reports passed over):"));
    assert!(checkpoint(&place.path("out/first")) == checkpoint(&place.path("second")), "other data");
    // A comparison outside of any run, under a name of its own.
    place.runs("analyze --compare out/first second --out texts/compared");
    let fourth = train("fourth");
    assert!(fourth.contains("(4 folders of sdmoe's own runs and reports passed over)"), "{fourth}");
    assert!(checkpoint(&place.path("out/first")) == checkpoint(&place.path("fourth")), "other data");
}

#[test]
fn standard_input_is_a_file_like_any_other() {
    let mut config = tiny();
    config.train.steps = 2;
    let place = place(&config);
    let piped = |args: &str, text: &str| {
        let output = place.command(args).write_stdin(text).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let text = place.read("text");
    place.runs("train --config run.toml --out a --quiet --report off");
    let (_, told) = piped("train --config run.toml --out b --report off --data -", &text);
    assert!(told.starts_with("data: standard input: 3645 bytes to train on, 405 held out\n"), "{told}");
    assert!(checkpoint(&place.path("a")) == checkpoint(&place.path("b")), "other data");
    let evaluated = piped("eval --checkpoint a --data -", &text).0;
    assert_eq!(evaluated, place.runs("eval --checkpoint a --data text").replace("1 file", "standard input"));
    let generated = piped("generate --checkpoint a --tokens 5 --prompt -", "brown").0;
    assert_eq!(generated, place.runs("generate --checkpoint a --tokens 5 --prompt brown"));
    let args = "train --config run.toml --out c --data -";
    failed(
        args,
        &place.command(args).write_stdin("").output().unwrap(),
        "-: expected text, got no bytes in standard input",
    );
}
