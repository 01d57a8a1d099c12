//! Pipelines kept between processes: one file for each adapter, which the next device begins with, which is replaced where it
//! does not fit, and which does no harm where it cannot be written. Without a folder, and on adapters without such caches,
//! there is no file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::place::{Place, tree};
use crate::common::{download, open, own_gpu as gpu, untested};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::low_level::kernels::elementwise::add_into;
use sdmoe::tensor::Tensor;

/// Opens a device with the folder, has it compile a kernel and use it; the bytes it began with.
fn run(folder: &Path) -> u64 {
    let gpu = open(&GpuOptions::default().pipeline_cache(folder.to_owned()));
    let x = Tensor::from_f32(&gpu, [2], &[1.0, 2.0]).unwrap();
    add_into(&x, &Tensor::from_f32(&gpu, [2], &[3.0, 4.0]).unwrap()).unwrap();
    assert_eq!(download(&x), [4.0, 6.0]);
    gpu.counters().pipeline_bytes_read
}

fn files(folder: &Path) -> Vec<PathBuf> {
    tree(folder).into_iter().map(|(path, _)| path).collect()
}

/// The one file that a device leaves; none where its adapter has no such caches.
fn stored(folder: &Path) -> Option<PathBuf> {
    run(folder);
    let mut files = files(folder);
    if !has_caches(&gpu()) {
        untested("the adapter has no pipeline caches");
        assert!(files.is_empty(), "{files:?}");
        return None;
    }
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop()
}

fn has_caches(gpu: &Gpu) -> bool {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters[gpu.adapter().index].features().contains(wgpu::Features::PIPELINE_CACHE)
}

#[test]
fn the_next_device_begins_with_what_the_last_one_stored() {
    let place = Place::new();
    let folder = place.path("made/here");
    let Some(file) = stored(&folder) else { return };
    let first = fs::read(&file).unwrap();
    let written = fs::metadata(&file).unwrap().modified().unwrap();
    let read = run(&folder);
    assert!(read > 0 && read < first.len() as u64, "{read} bytes of data in {}", first.len());
    // As nothing new was compiled.
    assert_eq!(fs::read(&file).unwrap(), first);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
}

#[test]
fn a_file_that_is_damaged_is_ignored_and_replaced() {
    let place = Place::new();
    let folder = place.path("cache");
    let Some(file) = stored(&folder) else { return };
    let good = fs::read(&file).unwrap();
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let other = String::from_utf8_lossy(&good).replace(env!("CARGO_PKG_VERSION"), "9.9.9").into_bytes();
    let bad = [&good[..good.len() - 1], &good[..5], &[], &changed, &other, &[0; 1000]];
    for (i, bad) in bad.into_iter().enumerate() {
        fs::write(&file, bad).unwrap();
        assert_eq!(run(&folder), 0, "file {i}");
        assert_eq!(fs::read(&file).unwrap(), good, "file {i}");
        assert_eq!(files(&folder).len(), 1, "file {i}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_does_no_harm() {
    let place = Place::new();
    place.write("file", "not a folder");
    assert_eq!(run(&place.path("file/cache")), 0);
    assert_eq!(place.read("file"), "not a folder");
    // Where the file belongs is a folder, which is not replaced.
    let folder = place.path("cache");
    let Some(file) = stored(&folder) else { return };
    fs::remove_file(&file).unwrap();
    fs::create_dir_all(file.join("inner")).unwrap();
    let before = place.tree();
    assert_eq!(run(&folder), 0);
    assert_eq!(place.tree(), before, "and nothing is left beside it");
}

#[test]
fn devices_that_end_together_leave_one_whole_file() {
    let place = Place::new();
    let folder = place.path("cache");
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| run(&folder)))));
    if stored(&folder).is_some() {
        assert!(run(&folder) > 0);
    }
}

#[test]
fn the_program_keeps_them_in_the_users_cache_folder_or_where_it_is_told_or_nowhere() {
    let place = Place::new();
    place.write("text", "the quick brown fox jumps over the lazy dog. ".repeat(20));
    place.runs("train --data text --steps 1 --batch 1 --seq 16 --out run --quiet --report off");
    let program = |more: &str, variable: Option<&str>| {
        let mut command = place.command(&format!("generate --checkpoint run --prompt a --tokens 1{more}"));
        command.env_remove("SDMOE_PIPELINE_CACHE").envs(variable.map(|v| ("SDMOE_PIPELINE_CACHE", v)));
        // The driver's own cache stays where it is.
        let own = std::env::home_dir().unwrap().join(".cache");
        command.env("MESA_SHADER_CACHE_DIR", own).env("XDG_CACHE_HOME", place.path("home"));
        command.assert().success();
    };
    let there = has_caches(&gpu());
    let has = |folder: &str| !tree(&place.path(folder)).is_empty();
    for folder in ["home", "told", "variable"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    program(" --pipeline-cache off", None);
    program("", Some("off"));
    program("", Some(""));
    assert!(!has("home"));
    program(" --pipeline-cache told", Some("off"));
    program("", Some("variable"));
    assert_eq!([has("told"), has("variable"), has("home")], [there, there, false]);
    program("", None);
    assert_eq!(has("home/sdmoe"), there);
}
