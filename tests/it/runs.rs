//! Whole runs, through the program and through the library: what they write, that they repeat, stop and go on bit for bit,
//! and what is left when they fail.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::common::place::{Place, failed};
use pollster::block_on;
use sdmoe::data::Corpus;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::{GradientForm, Precision, Preset};
use sdmoe::tensor::Tensor;
use sdmoe::train::config::RunConfig;
use sdmoe::train::metrics::StepMetrics;
use sdmoe::train::progress::Display;
use sdmoe::train::resume::restore;
use sdmoe::train::run::run;
use sdmoe::train::run_folder::RunFolder;
use sdmoe::train::saved::SavedRun;
use sdmoe::train::summary::Summary;
use sdmoe::train::warnings::Kind;
use sdmoe::train::{Outcome, Plan};

const TEXT: &str = "the quick brown fox jumps over the lazy dog. ";

/// A model that trains a step in milliseconds.
fn tiny() -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.d_model = 32;
    config.model.layers = 1;
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (2, 1, 16);
    (config.model.moe.experts, config.model.moe.d_expert, config.model.moe.d_shared) = (4, 32, 16);
    (config.train.steps, config.train.batch, config.train.seq) = (12, 2, 32);
    (config.train.log_every, config.train.eval_every, config.train.spectral_every) = (1, 4, 4);
    config.train.checkpoint_every = 4;
    config.optimizer.warmup_steps = 2;
    config.optimizer.lr = 1e-2;
    (config.spectral.rank, config.spectral.oversampling, config.spectral.refresh_every) = (3, 4, 2);
    config.data.paths = vec!["text".into()];
    config
}

/// A place with a text and the settings `config`.
fn place(config: &RunConfig) -> Place {
    let place = Place::new();
    place.write("text", TEXT.repeat(90));
    place.write("run.toml", config.to_toml().unwrap());
    place
}

fn lines(metrics: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(metrics).unwrap();
    assert!(text.ends_with('\n'), "whole lines: {text}");
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

fn checkpoint(run: &Path) -> [Vec<u8>; 2] {
    ["model.safetensors", "optimizer.safetensors"].map(|f| fs::read(run.join("checkpoint").join(f)).unwrap())
}

fn summary(run: &Path) -> Summary {
    serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap()
}

/// Trains in `dir`, from its checkpoint where it has one; with `stop` for one step only.
fn session(config: &RunConfig, dir: &Path, stop: bool) -> Outcome {
    let corpus = Corpus::from_bytes(TEXT.repeat(90).into_bytes(), 0.1, "a text".into());
    let (folder, resume) = match RunFolder::resume(dir) {
        Ok(folder) => (folder, Some(SavedRun::open(dir).unwrap())),
        Err(_) => (RunFolder::create(dir).unwrap(), None),
    };
    let plan = Plan { config: config.clone(), corpus, folder, resume };
    block_on(run(plan, Display::Quiet, &AtomicBool::new(stop))).unwrap_or_else(|e| panic!("{e}"))
}

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
    let cases: [(&str, Change); 4] = [
        ("direct form, two micro-batches, bias balancing", |c| {
            c.train.accumulate = 2;
            c.model.moe.balance_bias = 0.01;
            c.spectral.gradient_form = GradientForm::Direct;
        }),
        ("token-space form", |c| c.spectral.gradient_form = GradientForm::TokenSpace),
        ("plain", |c| c.spectral.enabled = false),
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

/// Starts the program, does `once` with its process id when it says a line that begins with `sign`, and gives back exit code,
/// standard output and what it said on standard error.
#[cfg(unix)]
fn when(place: &Place, args: &str, sign: &str, once: impl FnOnce(u32)) -> (Option<i32>, String, Vec<String>) {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("sdmoe"));
    command.env("XDG_RUNTIME_DIR", place.path("")).current_dir(place.path("")).args(args.split(' '));
    command.env("SDMOE_PIPELINE_CACHE", "off");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    let mut told = Vec::new();
    let mut once = Some(once);
    for line in errors.lines() {
        let line = line.unwrap();
        if let Some(once) = once.take_if(|_| line.starts_with(sign)) {
            once(child.id());
        }
        told.push(line);
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), told)
}

/// Settings of so many steps that they cannot be done before a test has done something to the run.
#[cfg(unix)]
fn endless() -> RunConfig {
    let mut config = tiny();
    config.train.steps = 20_000;
    (config.train.checkpoint_every, config.train.eval_every, config.train.spectral_every) = (0, 0, 0);
    config
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_what_ends_programs_finish_the_step_write_a_checkpoint_and_say_how_to_resume() {
    let place = place(&endless());
    for signal in ["INT", "TERM", "HUP"] {
        let send = |id: u32| {
            let kill =
                |signal: &str| std::process::Command::new("kill").args([signal, &id.to_string()]).status().unwrap();
            assert!(kill(&format!("-{signal}")).success());
            // A terminal that is closed, or a service that is stopped, sends more than one: that is no second Ctrl-C.
            if signal != "INT" {
                kill("-HUP");
                kill("-TERM");
            }
        };
        let (code, said, told) = when(&place, &format!("train --config run.toml --out {signal}"), "step ", send);
        assert_eq!(told.iter().filter(|l| l.starts_with("finishing this step")).count(), 1, "{signal}: {told:?}");
        assert_eq!(code, Some(130), "{signal}: {said}");
        let step: u64 = said.split_whitespace().nth(3).unwrap().trim_end_matches(';').parse().unwrap();
        assert_eq!(said, format!("stopped after step {step}; go on with: sdmoe train --resume {signal}\n"));
        assert_eq!(SavedRun::open(&place.path(signal)).unwrap().model.step, step);
        assert_eq!(lines(&place.path(signal).join("metrics.jsonl")).len() as u64, step);
        assert!(!place.path(signal).join("summary.json").exists());
        if signal == "INT" {
            // As it says; 20 steps are enough here.
            place.runs(&format!("train --resume INT --quiet --report off --steps {}", step + 20));
            let steps: Vec<u64> = lines(&place.path("INT/metrics.jsonl")).iter().map(|l| l.step).collect();
            assert_eq!(steps, (1..=step + 20).collect::<Vec<_>>());
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    use std::process::Command;
    let place = place(&endless());
    let program = assert_cmd::cargo::cargo_bin("sdmoe");
    // As `nohup` does it. A hangup, a second of training, and then an end that is no hangup.
    let script = "trap '' HUP; \"$0\" train --config run.toml --out a 2>told & child=$!; \
                  until grep -q ^step told; do sleep 0.1; done; kill -HUP $child; sleep 1; kill -0 $child && echo alive; \
                  kill -TERM $child; wait $child; echo $?";
    let mut bash = Command::new("bash");
    bash.env("XDG_RUNTIME_DIR", place.path("")).env("SDMOE_PIPELINE_CACHE", "off").current_dir(place.path(""));
    let output = bash.arg("-c").arg(script).arg(program).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("alive\n") && said.ends_with("\n130\n"), "{said}");
    assert_eq!(place.read("told").matches("finishing this step").count(), 1);
}

#[cfg(unix)]
#[test]
fn a_folder_that_is_renamed_while_the_run_goes_on_ends_it_and_is_not_made_anew() {
    let place = place(&endless());
    let rename = |_| fs::rename(place.path("a"), place.path("b")).unwrap();
    let (code, said, told) = when(&place, "train --config run.toml --out a", "step ", rename);
    assert_eq!((code, said.as_str()), (Some(2), ""), "{told:?}");
    assert!(told.last().unwrap().contains("a: the run's folder was removed, renamed or replaced"), "{told:?}");
    assert!(!place.path("a").exists());
    lines(&place.path("b/metrics.jsonl"));
}

#[cfg(unix)]
#[test]
fn of_two_that_resume_a_run_one_is_refused() {
    let mut config = endless();
    config.train.steps = 4;
    let place = place(&config);
    place.runs("train --config run.toml --out a --quiet --report off");
    let stop = |id: u32| {
        let refused = "a: another process is training in this folder";
        place.fails_alone("train --resume a --steps 9", refused);
        assert!(std::process::Command::new("kill").args(["-INT", &id.to_string()]).status().unwrap().success());
    };
    let (code, _, told) = when(&place, "train --resume a --steps 20000", "note: ", stop);
    assert_eq!(code, Some(130), "{told:?}");
    assert!(told.iter().any(|l| l.starts_with("note: the learning rate rises from 1.00e-3 to ")), "{told:?}");
    let steps: Vec<u64> = lines(&place.path("a/metrics.jsonl")).iter().map(|l| l.step).collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_run_that_was_killed_behind_its_last_checkpoint_is_finished_by_resuming_it() {
    let place = finished();
    place.fails("train --resume a --quiet", "expected more than the 4 steps already done, got 4");
    let (whole, before) = (summary(&place.path("a")), checkpoint(&place.path("a")));
    let metrics = place.read("a/metrics.jsonl");
    fs::remove_file(place.path("a/summary.json")).unwrap();
    let said = place.runs("train --resume a --quiet");
    assert!(said.contains("sample:") && said.contains("report on the experts: a/analysis/report.html"), "{said}");
    let now = summary(&place.path("a"));
    assert_eq!((now.steps, now.tokens, now.val_loss), (4, whole.tokens, whole.val_loss));
    assert_eq!(now.similarity, whole.similarity);
    assert_eq!(Some(now.tokens_per_second), lines(&place.path("a/metrics.jsonl"))[3].tokens_per_second);
    assert!(place.path("a/analysis/report.html").exists());
    assert!(checkpoint(&place.path("a")) == before && place.read("a/metrics.jsonl") == metrics);
    place.fails("train --resume a --quiet", "expected more than the 4 steps already done, got 4");
}

#[test]
fn a_second_run_in_the_same_folder_sees_the_same_data() {
    let mut config = tiny();
    (config.train.steps, config.data.paths) = (2, Vec::new());
    let place = Place::new();
    place.write("run.toml", config.to_toml().unwrap());
    place.write("texts/a.txt", TEXT.repeat(90));
    let train = |out: &str| {
        let output = place.command(&format!("train --config run.toml --data . --out {out}")).output().unwrap();
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

fn values(named: impl IntoIterator<Item = (String, Tensor)>) -> std::collections::BTreeMap<String, Vec<f32>> {
    named.into_iter().map(|(name, tensor)| (name, block_on(tensor.to_f32()).unwrap())).collect()
}

/// Trains 8 steps with the spectral decoupling on or off, then goes on with it switched; what the trainer starts from must
/// be what was saved.
fn switch(from: bool) {
    let mut config = tiny();
    config.spectral.enabled = from;
    config.train.steps = 8;
    let place = Place::new();
    let dir = place.path("run");
    session(&config, &dir, false);
    let saved = SavedRun::open(&dir).unwrap();
    config.spectral.enabled = !from;
    config.train.steps = 12;
    saved.model.accepts(&config).unwrap();
    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let trainer = restore(&gpu, &config, &saved).unwrap();
    assert_eq!(trainer.step_number(), 8);
    for (name, value) in values(trainer.model().params().iter().map(|p| (p.name.clone(), p.value.clone()))) {
        assert_eq!(value, saved.model.tensors.get_f32(&name).unwrap().1, "{name} stays as it was");
    }
    let state = values(trainer.state().unwrap());
    let mut carried = 0;
    for matrix in ["gate", "up", "down"] {
        for moment in ["m", "v"] {
            let names =
                [format!("adam.layers.0.moe.experts.{matrix}.{moment}"), format!("spectral.{matrix}.0.w_u.{moment}")];
            let (old, new) = (&names[usize::from(from)], &names[usize::from(!from)]);
            assert_eq!(state[new], saved.optimizer.get_f32(old).unwrap().1, "{old} becomes {new}");
            assert!(state[new].iter().any(|x| *x != 0.0));
            carried += 1;
            if !from {
                let common = format!("spectral.{matrix}.0.w_c");
                assert!(state[&format!("{common}.{moment}")].iter().all(|x| *x == 0.0));
                assert!(state[&common].iter().any(|x| *x != 0.0), "{common} comes from the experts' mean");
            }
        }
    }
    assert_eq!(carried, 6);
    if !from {
        assert_eq!(state["spectral.common_since"], [8.0], "the moments of W_c start at step 8");
    }
    for (name, value) in &state {
        if saved.optimizer.contains(name) {
            assert_eq!(*value, saved.optimizer.get_f32(name).unwrap().1, "{name}");
        }
    }
    drop(trainer);
    session(&config, &dir, false);
    if !from {
        let later = restore(&gpu, &config, &SavedRun::open(&dir).unwrap()).unwrap();
        assert_eq!(values(later.state().unwrap())["spectral.common_since"], [8.0]);
    }
    let found = lines(&dir.join("metrics.jsonl"));
    assert_eq!(found.len(), 12);
    for line in &found[8..] {
        // A batch of 64 bytes differs from the next by some tenths.
        assert!((line.loss - found[7].loss).abs() < 0.5, "step {}: {} after {}", line.step, line.loss, found[7].loss);
    }
    assert_eq!(found[11].spectral.clone().unwrap().similarity_unique.is_some(), !from);
}

#[test]
fn a_plain_run_goes_on_decoupled() {
    switch(false);
}

#[test]
fn a_decoupled_run_goes_on_plain() {
    switch(true);
}

#[test]
fn missing_and_unknown_adapters_are_told_and_leave_nothing() {
    let place = place(&tiny());
    place.fails(
        "train --config run.toml --out a --quiet --adapter nonesuch",
        "adapter `nonesuch` not found; available: 0: ",
    );
    place.fails("train --config run.toml --out a --quiet --adapter 99", "adapter `99` not found; available: 0: ");
    if cfg!(target_os = "linux") {
        for args in ["train --config run.toml --out a --quiet", "devices"] {
            let before = place.tree();
            let none = place.path("none.json");
            let mut command = place.command(args);
            // No list of drivers: as on a machine that has none.
            let output = command.env("VK_DRIVER_FILES", &none).env("VK_ICD_FILENAMES", &none).output().unwrap();
            failed(args, &output, "no GPU adapter found");
            let said = String::from_utf8_lossy(&output.stderr);
            let reason = format!("the variable VK_DRIVER_FILES is '{}', where there is no driver file", none.display());
            assert!(said.contains(&reason), "{args}: {said}");
            assert_eq!(place.tree(), before, "{args}: nothing may be written");
        }
    }
}

/// A place with a finished run `a` of 4 steps.
fn finished() -> Place {
    let mut config = tiny();
    // Together with a learning rate that breaks a run it would be warned of.
    (config.train.steps, config.optimizer.weight_decay) = (4, 0.0);
    let place = place(&config);
    place.runs("train --config run.toml --out a --quiet --report off");
    place
}

#[test]
fn numbers_that_are_not_finite_stop_the_run_and_keep_the_checkpoint() {
    let place = finished();
    let before = checkpoint(&place.path("a"));
    let args = "train --resume a --steps 40 --lr 1e30 --quiet";
    let output = place.command(args).output().unwrap();
    failed(args, &output, "training stopped; the checkpoint written before");
    let message = String::from_utf8_lossy(&output.stderr);
    let step: u64 = message.split(&[' ', ':'][..]).nth(3).unwrap().parse().unwrap_or_else(|e| panic!("{message}: {e}"));
    assert!((5..12).contains(&step), "{message}");
    assert!(checkpoint(&place.path("a")) == before, "the checkpoint was touched");
    let found = lines(&place.path("a/metrics.jsonl"));
    assert_eq!(found.iter().map(|l| l.step).collect::<Vec<_>>(), (1..step).collect::<Vec<_>>(), "{message}");
    assert!(!place.path("a/checkpoint.tmp").exists());
    // The checkpoint still serves, here with half the batch.
    place.runs("train --resume a --steps 5 --lr 1e-3 --batch 1 --quiet --report off");
    assert_eq!(summary(&place.path("a")).tokens, 4 * 64 + 32);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_stops_the_run_and_keeps_the_checkpoint() {
    let place = finished();
    let before = checkpoint(&place.path("a"));
    // No file may grow past so many KiB: a write beyond fails as on a full disk.
    let limited = |kib: usize, args: &str| {
        let program = assert_cmd::cargo::cargo_bin("sdmoe");
        let script = format!("ulimit -f {kib}; trap '' XFSZ; exec '{}' {args}", program.display());
        let mut bash = std::process::Command::new("bash");
        bash.env("XDG_RUNTIME_DIR", place.path("")).env("SDMOE_PIPELINE_CACHE", "off");
        bash.args(["-c", &script]).current_dir(place.path("")).output().unwrap()
    };
    let args = "train --resume a --steps 9 --quiet --report off";
    let output = limited(8, args);
    failed(args, &output, "writing a/checkpoint.tmp/model.safetensors");
    assert!(checkpoint(&place.path("a")) == before, "the checkpoint was touched");
    assert!(!place.path("a/checkpoint.tmp").exists() && !place.path("a/checkpoint.old").exists());
    assert_eq!(lines(&place.path("a/metrics.jsonl")).len(), 8, "up to the step whose checkpoint failed");
    place.runs(args);
    assert_eq!(lines(&place.path("a/metrics.jsonl")).len(), 9);
    // A line of metrics that does not fit is not there in part.
    let mut config = tiny();
    (config.train.steps, config.train.eval_every, config.train.spectral_every) = (60, 0, 0);
    config.train.checkpoint_every = 0;
    place.write("long.toml", config.to_toml().unwrap());
    let args = "train --config long.toml --out c --quiet";
    failed(args, &limited(2, args), "writing c/metrics.jsonl");
    let steps: Vec<u64> = lines(&place.path("c/metrics.jsonl")).iter().map(|l| l.step).collect();
    assert!(steps.len() > 5 && steps.iter().copied().eq(1..=steps.len() as u64), "{steps:?}");
    // A run that cannot even begin leaves nothing.
    let (before, args) = (place.tree(), "train --config run.toml --out new/b --quiet");
    failed(args, &limited(0, args), "writing new/b/config.toml");
    assert_eq!(place.tree(), before);
}

#[test]
fn a_checkpoint_that_lacks_a_tensor_is_told_and_left_alone() {
    use sdmoe::checkpoint::{MODEL_FILE, OPTIMIZER_FILE, TensorToSave, save_tensors};
    let place = finished();
    let saved = SavedRun::open(&place.path("a")).unwrap();
    for (file, tensors, lost) in [
        (OPTIMIZER_FILE, &saved.optimizer, "adam.embed.weight.m"),
        (OPTIMIZER_FILE, &saved.optimizer, "spectral.up.0.w_c"),
        (MODEL_FILE, &saved.model.tensors, "embed.weight"),
    ] {
        let path = saved.model.path.join(file);
        let whole = fs::read(&path).unwrap();
        let kept: Vec<_> = tensors.names().into_iter().filter(|n| n != lost).collect();
        let held: Vec<_> = kept.iter().map(|n| tensors.get_f32(n).unwrap()).collect();
        let list: Vec<_> = kept.iter().zip(&held).map(|(n, (s, d))| TensorToSave::f32(n, s, d)).collect();
        save_tensors(&path, &list, tensors.metadata()).unwrap();
        place.fails(
            "train --resume a --steps 9 --quiet --report off",
            &format!("tensor `{lost}`: expected one, found none"),
        );
        fs::write(&path, whole).unwrap();
    }
}
