//! Bad input to the program: each mistake has its own message and exit code 2, and leaves nothing behind.
//!
//! Nothing here needs a GPU: these checks come before an adapter is opened.

use std::fs;

use crate::common::place::Place;
use sdmoe::checkpoint::{MODEL_FILE, OPTIMIZER_FILE, TensorToSave, save_tensors};
use sdmoe::train::config::RunConfig;
use sdmoe::train::run_folder::RunFolder;
use sdmoe::train::saved::{self, Position};

/// A run folder with a checkpoint of step 7 and no model in it.
fn run(place: &Place, name: &str) -> RunFolder {
    run_with(place, name, &[1.0, 2.0])
}

/// The same with these numbers as its one tensor, parameters and state.
fn run_with(place: &Place, name: &str, w: &[f32]) -> RunFolder {
    let folder = RunFolder::create(&place.path(name)).unwrap();
    let config = RunConfig::default();
    folder.begin(&config, 0).unwrap();
    let shape = [w.len()];
    let w = [TensorToSave::f32("w", &shape, w)];
    saved::save(&folder.checkpoint_path(), &config, Position { step: 7, ..Position::default() }, &w, &w).unwrap();
    folder
}

#[test]
fn data_that_cannot_be_used_is_told() {
    let place = Place::new();
    place.write("empty.txt", "");
    place.write("short.txt", "x".repeat(100));
    place.write("uneven.txt", "x".repeat(1000));
    place.write("folder/binary", "\0");
    place.fails("train --data empty.txt", "data: empty.txt: expected text, got no bytes");
    place.fails("train --data folder", "data: folder: expected text, got no bytes in 0 files (1 binary passed over)");
    place.fails("train --data missing.txt", "reading missing.txt: ");
    place.fails("train --data short.txt", "at least 129 bytes (seq + 1), got 90");
    place.fails("train --data uneven.txt", "the held-out part (data.validation_fraction) is shorter than one sequence: expected at least 129 bytes (seq + 1), got 100");
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_links_to_nothing_are_refused_by_name_as_data_and_as_checkpoints() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    run(&place, "done");
    fs::create_dir(place.path("folder")).unwrap();
    let pipe = |name: &str| {
        assert!(std::process::Command::new("mkfifo").arg(place.path(name)).status().unwrap().success());
    };
    pipe("folder/pipe");
    symlink("nowhere", place.path("folder/link")).unwrap();
    // Not the whole tree is compared here: to read a pipe waits for ever.
    let refused = |args: &str, expected: &str| {
        crate::common::place::failed(args, &place.command(args).output().unwrap(), expected)
    };
    refused("train --data folder/pipe", "reading folder/pipe: expected a file or a folder, found a named pipe");
    refused("train --data folder/link", "reading folder/link: a link to nowhere, which does not exist");
    refused("train --data /dev/zero", "reading /dev/zero: expected a file or a folder, found a device");
    refused("train --data folder", "no bytes in 0 files (1 link that leads nowhere, 1 pipe or device passed over)");
    refused("analyze folder/pipe", "folder/pipe: expected a file, found a named pipe");
    refused("eval --checkpoint folder/pipe --data folder", "expected a checkpoint folder, found none");
    for file in [MODEL_FILE, OPTIMIZER_FILE] {
        let path = format!("done/checkpoint/{file}");
        let whole = fs::read(place.path(&path)).unwrap();
        fs::remove_file(place.path(&path)).unwrap();
        pipe(&path);
        refused("train --resume done", &format!("reading done/checkpoint/{file}: expected a file, found a named pipe"));
        fs::remove_file(place.path(&path)).unwrap();
        fs::write(place.path(&path), whole).unwrap();
    }
}

#[test]
fn settings_that_are_unknown_or_impossible_are_named() {
    let place = Place::new();
    for (text, expected) in [
        ("[model]\nwidth = 3", "config: model.width: unknown setting; expected one of "),
        ("[train]\nsteps = ", "config: run.toml, line 2: "),
        ("[train]\nsteps = \"many\"", "config: train.steps: invalid type: string \"many\""),
        ("[model.moe]\ntop_k = 9", "config: model.moe.top_k: expected at most model.moe.experts = 8, got 9"),
        ("[spectral]\nrank = 200", "config: spectral.rank: expected at most min(d_model, d_expert) = 128, got 200"),
        ("[model]\nkv_heads = 3", "config: model.kv_heads: expected a divisor of model.heads = 4, got 3"),
    ] {
        place.write("run.toml", text);
        place.fails("train --config run.toml", expected);
    }
    place.fails("train --config missing.toml", "reading missing.toml: ");
    place.fails("train --rank 200", "config: spectral.rank: ");
    place.fails("train --steps 0", "config: train.steps: expected at least 1, got 0");
    for value in ["-1", "-1e-3", "-inf", "nan", "1e39"] {
        place.fails(&format!("train --lr {value}"), "config: optimizer.lr: expected a number above 0");
        place.fails(&format!("train --lr={value}"), "config: optimizer.lr: expected a number above 0");
    }
}

#[test]
fn sizes_that_nothing_can_hold_are_told_by_their_setting() {
    let place = Place::new();
    for (text, expected) in [
        (
            "model.heads = 9223372036854775806\nmodel.kv_heads = 1",
            "config: model.heads: expected at most 4096, got 9223",
        ),
        ("model.layers = 100000000000", "config: model.layers: expected at most 4096, got 100000000000"),
        ("spectral.power_iterations = 100000", "config: spectral.power_iterations: expected at most 100, got 100000"),
        ("train.accumulate = 4294967296", "config: train.accumulate: expected at most 65536, got 4294967296"),
        ("train.batch = 4611686018427387904", "config: train.batch: expected at most 1048576, got 4611"),
    ] {
        place.write("run.toml", text);
        place.fails("train --config run.toml --out r", expected);
    }
}

#[test]
fn usage_mistakes_are_one_line() {
    let place = Place::new();
    for (args, expected) in [
        (
            "train --speed 3",
            "error: unexpected argument '--speed' found; tip: a similar argument exists: '--seed'; see --help",
        ),
        (
            "train --spectral maybe",
            "error: invalid value 'maybe' for '--spectral <on|off>' [possible values: on, off]; see --help",
        ),
        (
            "eval --checkpoint a",
            "error: the following required arguments were not provided: --data <PATH>...; see --help",
        ),
        (
            "train --steps -1",
            "error: invalid value '-1' for '--steps <N>': expected a whole number of at least 0 and below 2^64, got -1",
        ),
        ("train --batch 1e3", "expected a whole number of at least 0 and below 2^64, got 1e3"),
        ("train --seq 99999999999999999999", "expected a whole number of at least 0 and below 2^64"),
        ("analyze", "error: the following required arguments were not provided: <TARGET>; see --help"),
        ("analyze a --tokens 99999999999", "expected a number of at least 1 and at most 16777216, got 99999999999"),
        ("generate --checkpoint a --prompt x --tokens 99999999999", "--tokens: expected at most 1073741824"),
        (
            "generate --checkpoint a --prompt x --temperature -1",
            "--temperature: expected a number of at least 0, got -1",
        ),
        ("bench --rounds 99999999", "--rounds: expected at most 10000, got 99999999"),
        ("bench --seconds inf", "--seconds: expected a number of at least 0 and at most 86400, got inf"),
        ("help-me", "error: unrecognized subcommand 'help-me'"),
    ] {
        place.fails(args, expected);
    }
    let output = place.command("train").arg("--no\u{1b}[2J\u{9b}such\nflag").output().unwrap();
    // clap leaves out what turns colours on and more.
    crate::common::place::failed("a flag that would clear the screen", &output, "such flag' found");
    assert!(!output.stderr.contains(&0x1b) && !output.stderr.contains(&0x9b), "{output:?}");
    let mut none = assert_cmd::Command::cargo_bin("sdmoe").unwrap();
    let output = none.current_dir(place.path("")).output().unwrap();
    crate::common::place::failed(
        "nothing",
        &output,
        "error: expected a command: train, generate, eval, decouple, upcycle, export, analyze, inspect, bench, tune, verify, devices",
    );
    // What is asked for is no mistake.
    for (args, expected) in [("--help", "Commands:"), ("train --help", "--precision"), ("--version", "sdmoe ")] {
        let shown = place.runs(args);
        assert!(shown.contains(expected) && !shown.starts_with("error"), "{shown}");
    }
}

#[cfg(unix)]
#[test]
fn names_of_files_do_nothing_to_the_terminal() {
    let place = Place::new();
    let name = "a\u{1b}]0;title\u{7}\n\u{9b}2J";
    place.write(name, "");
    let output = place.command("train --data").arg(name).output().unwrap();
    crate::common::place::failed(
        "a name with control characters",
        &output,
        "data: a\\u{1b}]0;title\\u{7} \\u{9b}2J: expected text",
    );
    let bytes = [output.stderr, output.stdout].concat();
    assert!(bytes.iter().all(|b| *b >= b' ' || *b == b'\n'), "{bytes:?}");
}

#[test]
fn flags_without_effect_are_told() {
    let place = Place::new();
    let told = |args: &str, expected: &str| {
        let output = place.command(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let line = said.lines().next().unwrap_or_default();
        assert!(line.starts_with("warning: ") && line.contains(expected), "{args}: {said}");
        assert!(said.lines().last().unwrap_or_default().starts_with("error: "), "{args}: {said}");
    };
    // They fail later, at what is not there.
    told("analyze missing --tokens 5", "--tokens has no effect without --data");
    told("generate --checkpoint missing --prompt x --temperature 0 --seed 2", "--seed has no effect");
    told("generate --checkpoint missing --prompt x --temperature 0 --top-p 0.5", "--top-p has no effect");
    for (text, expected) in [
        ("model.moe.top_k = 1", "model.moe.renormalize = true with model.moe.top_k = 1"),
        ("model.moe.d_shared = 0\nmodel.moe.shared_gate = \"sigmoid\"", "model.moe.shared_gate"),
        ("spectral.matrices = [\"up\", \"up\"]", "spectral.matrices names up twice"),
    ] {
        place.write("run.toml", text);
        let args = "train --config run.toml --out a --quiet --adapter nonesuch";
        told(args, expected);
    }
}

#[test]
fn a_checkpoint_whose_settings_promise_more_than_its_header_has_is_told() {
    let place = Place::new();
    place.write("d", "x".repeat(2000));
    let promise = |layers: usize| {
        let mut config = RunConfig::default();
        config.model.layers = layers;
        let w = [TensorToSave::f32("w", &[2], &[1.0, 2.0])];
        let at = Position { step: 7, ..Position::default() };
        let _ = fs::remove_dir_all(place.path("c"));
        saved::save(&place.path("c"), &config, at, &w, &w).unwrap();
    };
    promise(3000);
    for command in ["eval --checkpoint c --data d", "generate --checkpoint c --prompt x"] {
        place.fails(command, "tensor `embed.weight`: expected one, found none (by the file's own settings)");
    }
    promise(100_000);
    for command in ["eval --checkpoint c --data d", "generate --checkpoint c --prompt x"] {
        place.fails(command, "config: model.layers: expected at most 4096, got 100000");
    }
}

#[test]
fn flags_that_do_not_exist_or_contradict_each_other_are_refused() {
    let place = Place::new();
    place.fails("train --speed 3", "unexpected argument '--speed'");
    place.fails("train --preset huge", "expected tiny, small or base");
    place.fails("train --spectral maybe", "[possible values: on, off]");
    place.fails("train --precision f8", "expected f32 or f16");
    place.fails("train --recompute half", "expected none or experts");
    place.fails("train --resume a --out b", "cannot be used with");
    place.fails("fly", "unrecognized subcommand 'fly'");
    place.fails("eval --checkpoint a", "--data");
    place
        .fails("generate --checkpoint a --prompt x --temperature=-1", "--temperature: expected a number of at least 0");
    place.fails("generate --checkpoint a --prompt x --top-p 1.5", "--top-p: expected a number above 0, at most 1");
    place.fails("generate --checkpoint a --prompt=", "--prompt: expected at least one byte");
}

#[test]
fn a_folder_that_is_taken_is_left_alone() {
    let place = Place::new();
    place.write("photos/cat.png", "x");
    place.write("file", "x");
    run(&place, "done");
    place.fails("train --out photos", "photos: exists, is not empty and is not a run");
    place.fails("train --out file", "expected a folder for the run, found a file");
    place.fails("train --out done", "already holds a run; go on with --resume done, or choose another --out");
}

#[test]
fn a_run_that_cannot_go_on_is_told_and_kept() {
    let place = Place::new();
    place.write("photos/cat.png", "x");
    drop(run(&place, "done"));
    place.write("done/summary.json", "{\"steps\": 7}");
    place.fails("train --resume photos", "expected the folder of a run to resume, found no config.toml");
    place.fails("train --resume missing", "expected the folder of a run to resume");
    place.fails(
        "train --resume done --steps 7",
        "config: train.steps: expected more than the 7 steps already done, got 7",
    );
    place.fails("train --resume done --rank 4", "config: spectral.rank: expected the checkpoint's 8, got 4");
    RunFolder::create(&place.path("young")).unwrap().begin(&RunConfig::default(), 0).unwrap();
    place.fails("train --resume young", "expected a checkpoint folder, found none");
}

#[test]
fn a_setting_that_does_not_fit_the_checkpoint_is_named_with_both_values() {
    let place = Place::new();
    drop(run(&place, "done"));
    let config = place.read("done/config.toml");
    for (from, to, expected) in [
        ("top_k = 2", "top_k = 1", "model.moe.top_k: expected the checkpoint's 2, got 1"),
        (
            "shared_gate = \"none\"",
            "shared_gate = \"sigmoid\"",
            "model.moe.shared_gate: expected the checkpoint's \"none\"",
        ),
        ("rope_theta = 10000.0", "rope_theta = 500.0", "model.rope_theta: expected the checkpoint's 10000, got 500"),
        ("layers = 4", "layers = 3", "model.layers: expected the checkpoint's 4, got 3"),
        (
            "[\"gate\", \"up\", \"down\"]",
            "[\"up\"]",
            "spectral.matrices: expected the checkpoint's [\"gate\", \"up\", \"down\"], got",
        ),
    ] {
        assert!(config.contains(from), "{from} in {config}");
        place.write("done/config.toml", config.replace(from, to));
        place.fails("train --resume done", expected);
    }
}

#[test]
fn a_folder_in_which_another_process_trains_is_left_alone() {
    let place = Place::new();
    let folder = run(&place, "done");
    folder.hold().unwrap();
    place.fails("train --resume done", "done: another process is training in this folder; wait until it ends");
    drop(folder);
    place.write("short", "x");
    place.fails("train --resume done --data short", "shorter than one sequence");
}

#[test]
fn the_optimizers_state_of_another_run_is_refused() {
    let place = Place::new();
    for (name, w) in [("one", [1.0]), ("two", [2.0])] {
        drop(run_with(&place, name, &w));
    }
    fs::copy(place.path("two/checkpoint/optimizer.safetensors"), place.path("one/checkpoint/optimizer.safetensors"))
        .unwrap();
    for command in ["train --resume one", "analyze one", "analyze one/checkpoint"] {
        place.fails(command, "optimizer.safetensors: expected the state that was saved with the model beside it");
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let place = Place::new();
    place.write("d", "x".repeat(200));
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let name = format!("run{bad}");
        drop(run_with(&place, &name, &[1.0, bad]));
        for command in ["generate --checkpoint DIR --prompt x", "eval --checkpoint DIR --data d", "train --resume DIR"]
        {
            let expected = format!("model.safetensors: tensor `w`: expected finite numbers, got {bad} at element 1");
            place.fails(&command.replace("DIR", &name), &expected);
        }
    }
}

#[test]
fn a_truncated_checkpoint_is_told() {
    for (file, commands) in [
        (
            MODEL_FILE,
            &["train --resume done", "generate --checkpoint done --prompt x", "eval --checkpoint done --data d"][..],
        ),
        (OPTIMIZER_FILE, &["train --resume done"]),
    ] {
        let place = Place::new();
        place.write("d", "x".repeat(200));
        let path = run(&place, "done").checkpoint_path().join(file);
        let whole = fs::read(&path).unwrap();
        for len in [0, 5, 40, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            for command in commands {
                place.fails(command, "truncated");
            }
        }
        fs::remove_file(&path).unwrap();
        place.fails(commands[0], &format!("expected a checkpoint, found no {file} in it"));
    }
}

#[test]
fn a_foreign_checkpoint_is_told() {
    let place = Place::new();
    let path = run(&place, "done").checkpoint_path().join(MODEL_FILE);
    let commands = ["train --resume done", "generate --checkpoint done --prompt x"];
    fs::write(&path, "this is no safetensors file").unwrap();
    commands.iter().for_each(|c| place.fails(c, "not a safetensors file"));
    // As other programs write it: a header without our metadata.
    let header = br#"{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat()).unwrap();
    commands.iter().for_each(|c| place.fails(c, "not a checkpoint of sdmoe"));
    // Our format without a model in it.
    save_tensors(&path, &[], &Default::default()).unwrap();
    commands.iter().for_each(|c| place.fails(c, "expected metadata `step`, found none"));
    place.fails("generate --checkpoint missing --prompt x", "expected a checkpoint folder, found none");
    place.fails("generate --checkpoint . --prompt x", "expected a checkpoint, found no model.safetensors in it");
}

#[test]
fn a_text_too_short_to_evaluate_is_told() {
    let place = Place::new();
    run(&place, "done");
    place.write("short.txt", "x".repeat(128));
    place.fails("eval --checkpoint done --data short.txt", "expected at least 129 bytes (seq + 1), got 128");
}
