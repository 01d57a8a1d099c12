//! Runs that are ended from outside: by signals, by another run in their folder, by a folder that goes.

use std::fs;

use super::{checkpoint, finished, lines, place, summary, tiny};
use crate::common::place::Place;
use sdmoe::train::config::RunConfig;
use sdmoe::train::saved::SavedRun;

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
