//! `sdmoe tune`: what it measures is right, kept, and used by the next device, and a file that does not fit is as none.

use std::fs;
use std::time::Duration;

use crate::common::place::Place;
use crate::common::{own_tiers as tiers, untested, upload, with_features_and_options};
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::bench::tune::{self, Tune, families, tune};
use sdmoe::gpu::{Gpu, GpuOptions, OPTIONAL_FEATURES, Tier};
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::low_level::kernels::shapes::SHAPES;

fn open(folder: &std::path::Path) -> Gpu {
    let options = GpuOptions::default().tier(Tier::Gpu).tuned(folder.to_owned());
    block_on(Gpu::open(&options)).unwrap()
}

/// The kernels that a product of this size runs.
fn kernels(gpu: &Gpu, [m, k, n]: [usize; 3]) -> Vec<&'static str> {
    let (a, b) = (upload(gpu, &Array::zeros(&[m, k])), upload(gpu, &Array::zeros(&[k, n])));
    let c = upload(gpu, &Array::zeros(&[m, n]));
    gpu.start_profile().unwrap();
    gemm(Trans::N, Trans::N, 1.0, &a, &b, 0.0, &c).unwrap();
    block_on(gpu.finish_trace()).unwrap().into_iter().map(|dispatch| dispatch.kernel).collect()
}

#[test]
fn what_is_found_is_kept_and_used_where_it_fits() {
    if !tiers().iter().any(|gpu| gpu.tier() == Tier::Gpu && gpu.adapter().timestamps) {
        return untested("no kernels for GPUs or no timestamps");
    }
    let folder = tempfile::tempdir().unwrap();
    // Without time for a product nothing is kept.
    let none = tune(&open(folder.path()), Duration::ZERO, Some(folder.path()), |_| Ok(())).unwrap();
    assert!(none.is_none() && fs::read_dir(folder.path()).unwrap().next().is_none());
    let mut found = 0;
    let path = tune(&open(folder.path()), Duration::from_millis(200), Some(folder.path()), |tuned| {
        let chosen = &tuned.timings[tuned.chosen.expect("the kernels are right")];
        assert!(tuned.timings.iter().all(|other| chosen.seconds <= other.seconds));
        found += 1;
        Ok(())
    });
    let path = path.unwrap().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(found > 0 && text.matches("[[product]]").count() == found, "{text}");

    // Another shape, by hand: that is what runs, also for a product that is only alike.
    let (head, _) = text.split_once("[[product]]").unwrap();
    let write = |shape: &str, splits: u32| {
        let product =
            format!("form = \"nn\"\nm = 64\nn = 32\nk = 256\nbatch = 1\nshape = \"{shape}\"\nsplits = {splits}\n");
        fs::write(&path, format!("{head}[[product]]\n{product}microseconds = 1.0\n")).unwrap();
    };
    let expect = |kernels_expected: &[&str], what: &str| {
        assert_eq!(kernels(&open(folder.path()), [64, 128, 32]), kernels_expected, "{what}");
    };
    for shape in [SHAPES[0], SHAPES[7], SHAPES[14]] {
        let (rows, columns) = shape.block.size();
        write(&shape.to_string(), 1);
        let kernel = format!("gemm_workgroup_{rows}x{columns}");
        expect(&[&kernel], &kernel);
    }
    write(&SHAPES[14].to_string(), 2);
    expect(&["gemm_workgroup_4x4", "gemm_sum_parts"], "sums in two parts");

    // What does not fit leaves the choice to the table, as no file does.
    let table = kernels(&open(tempfile::tempdir().unwrap().path()), [64, 128, 32]);
    write("1 x 1 x 1, 1 x 1 a thread", 1);
    expect(&table, "an unknown shape");
    for (what, text) in [
        ("another driver", text.replacen("driver = \"", "driver = \"x", 1)),
        ("another version", text.replacen("sdmoe = \"", "sdmoe = \"9", 1)),
        ("cut off", text[..text.len() / 2].to_owned()),
        ("no such form", "nonsense".to_owned()),
    ] {
        fs::write(&path, text).unwrap();
        expect(&table, what);
    }
}

#[test]
fn where_there_is_one_shape_tuning_says_so() {
    let Some(gpu) = tiers().into_iter().find(|gpu| gpu.tier() == Tier::Software) else {
        return untested("no kernels for software adapters");
    };
    let error = tune(&gpu, Duration::ZERO, None, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("its software kernels come in one shape"), "{error}");
}

#[test]
fn a_device_without_timestamps_is_timed_by_the_hosts_clock() {
    let features = OPTIONAL_FEATURES - wgpu::Features::TIMESTAMP_QUERY;
    let gpu = with_features_and_options(features, &GpuOptions::default().tier(Tier::Gpu));
    assert!(gpu.start_profile().is_err(), "the device has timestamps");
    let folder = tempfile::tempdir().unwrap();
    let mut found = 0;
    let path = tune(&gpu, Duration::from_millis(1), Some(folder.path()), |tuned| {
        let chosen = &tuned.timings[tuned.chosen.expect("the kernels are right")];
        assert!(tuned.timings.iter().all(|way| way.seconds > 1e-6 && chosen.seconds <= way.seconds), "{tuned:?}");
        found += 1;
        Ok(())
    });
    assert!(found > 0 && path.unwrap().unwrap().exists());
}

#[test]
fn opening_a_device_measures_only_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let limit = Duration::from_millis(1);
    let open = |options: &GpuOptions, tune| {
        let mut began = 0;
        let gpu = tune::open(options, tune, limit, |_| began += 1).unwrap();
        (gpu, began)
    };
    let files = || fs::read_dir(folder.path()).unwrap().count();
    let options = GpuOptions::default().tier(Tier::Gpu).tuned(folder.path().to_owned());
    assert_eq!((open(&options, Tune::default()).1, files()), (0, 0));
    let (gpu, began) = open(&options, Tune::WhenMissing);
    assert_eq!((began, files()), (1, 1));
    // The device at hand runs what is kept of its first product.
    let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let kept: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    let shape = kept["product"][0]["shape"].as_str().unwrap();
    let (rows, columns) = SHAPES.iter().find(|one| one.to_string() == shape).unwrap().block.size();
    assert_eq!(kernels(&gpu, [2048, 256, 256])[0], format!("gemm_workgroup_{rows}x{columns}"));
    drop(gpu);
    assert_eq!(open(&options, Tune::WhenMissing).1, 0, "there is a file");
    assert_eq!(open(&options, Tune::Always).1, 1);
    // A folder that cannot be written is no reason to fail.
    fs::write(folder.path().join("file"), "").unwrap();
    let (gpu, began) = open(&options.clone().tuned(folder.path().join("file")), Tune::WhenMissing);
    assert_eq!((began, kernels(&gpu, [64, 128, 32]).is_empty()), (1, false));
    for tier in tiers().iter().map(Gpu::tier).filter(|&tier| tier != Tier::Gpu) {
        assert_eq!(open(&options.clone().tier(tier), Tune::Always).1, 0, "{tier:?}: nothing to choose");
    }
}

#[test]
fn on_a_software_adapter_the_software_kernels_are_found_to_be_the_fastest_and_kept() {
    let adapter = crate::common::gpu().adapter().clone();
    if adapter.tier != Tier::Software || std::env::var_os("SDMOE_TIER").is_some() {
        return untested("no software adapter, or a tier that is asked for");
    }
    let options = GpuOptions::default();
    let found = families(&block_on(Gpu::open(&options)).unwrap(), &options, Duration::from_secs(2)).unwrap();
    assert_eq!((found.len(), found[0].tier, found[0].ratio), (Tier::ALL.len(), Tier::Software, 1.0), "{found:?}");
    assert!(found.iter().all(|one| one.tier == Tier::Software || one.ratio > 1.0), "{found:?}");
    let place = Place::new();
    let text = place.runs("tune --seconds 4");
    assert!(text.contains("the software kernels, which this adapter gets, are kept"), "{text}");
}
