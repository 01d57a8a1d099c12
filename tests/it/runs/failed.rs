//! Runs that fail: what is left, and what is said.

use std::fs;

use super::{checkpoint, finished, lines, place, summary, tiny};
use crate::common::place::failed;
use sdmoe::train::saved::SavedRun;

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
