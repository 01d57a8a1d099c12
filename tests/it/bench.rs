//! `sdmoe bench`: every case runs, the figures have stable names, and mistakes are told before anything is measured.

use crate::common::place::Place;
use serde_json::{Map, Value};

/// The figures that scripts read.
const NAMES: [&str; 17] = [
    "case",
    "median_ms",
    "best_ms",
    "spread",
    "gflops",
    "gbytes_per_s",
    "share_of_ceiling",
    "ratio_to_cpu",
    "best_ratio_to_cpu",
    "ratio_to_dense",
    "best_ratio_to_dense",
    "ratio",
    "best_ratio",
    "tokens_per_second",
    "rounds",
    "kernels",
    "memory",
];

fn figures(place: &Place, file: &str) -> Vec<Map<String, Value>> {
    let all: Vec<Map<String, Value>> = serde_json::from_str(&place.read(file)).unwrap();
    for one in &all {
        for (name, value) in one {
            assert!(NAMES.contains(&name.as_str()), "{name} in {one:?}");
            // Of one round there is no spread, and a ceiling has no rounds of its own.
            let none = name == "spread" || name == "rounds";
            let good = name == "case"
                || name == "kernels" && value[0]["kernel"].is_string()
                || name == "memory" && value["peak"].as_u64() > value["weights"].as_u64()
                || value.as_f64().is_some_and(|x| x.is_finite() && (x > 0.0 || none && x == 0.0));
            assert!(good, "{name} in {one:?}");
        }
    }
    all
}

fn of<'a>(all: &'a [Map<String, Value>], case: &str) -> &'a Map<String, Value> {
    all.iter().find(|one| one["case"] == case).unwrap_or_else(|| panic!("no {case} in {all:?}"))
}

#[test]
fn the_figures_of_the_products_have_stable_names() {
    let place = Place::new();
    place.write("b.json", "what was there before");
    let text = place.runs("bench gemm --quick --shapes --json b.json");
    let all = figures(&place, "b.json");
    for form in ["nn", "nt", "tn"] {
        for size in ["512x512x512", "1024x1024x1024", "4096x512x512", "511x513x509"] {
            let one = of(&all, &format!("gemm.{form}.{size}"));
            assert!(
                ["gflops", "share_of_ceiling", "ratio_to_cpu"].iter().all(|name| one.contains_key(*name)),
                "{one:?}"
            );
            assert_eq!(one.contains_key("ratio_to_dense"), size == "511x513x509", "{one:?}");
            let kernel = one["kernels"][0]["kernel"].as_str().unwrap();
            assert!(kernel.contains("gemm") && text.matches(kernel).count() > 0, "{one:?}");
            assert!(one["share_of_ceiling"].as_f64().unwrap() <= 1.0, "{one:?}");
            assert!(text.contains(one["case"].as_str().unwrap()), "{text}");
        }
    }
    assert!(of(&all, "ceiling.gemm").contains_key("gflops") && of(&all, "ceiling.copy").contains_key("gbytes_per_s"));
    let files: Vec<_> = place.tree().into_iter().map(|(path, _)| path).filter(|path| path.is_file()).collect();
    assert_eq!(files, [place.path("b.json")], "only the figures are written");
}

#[test]
fn a_comparison_comes_with_what_it_is_set_against() {
    let place = Place::new();
    place.runs("bench experts norms --quick --filter w.zipf --json b.json");
    let all = figures(&place, "b.json");
    let names: Vec<_> =
        all.iter().map(|one| one["case"].as_str().unwrap()).filter(|n| !n.starts_with("ceiling")).collect();
    assert_eq!(names, ["gemm.tn.4096x512x512", "experts.dw.even", "experts.dw.zipf"]);
    let zipf = of(&all, "experts.dw.zipf");
    assert!(zipf.contains_key("ratio") && zipf.contains_key("ratio_to_dense"), "{zipf:?}");
}

#[test]
fn the_case_names_that_scripts_know_are_there() {
    let listed = Place::new().runs("bench --list");
    let names: Vec<&str> = listed.lines().collect();
    for name in [
        "gemm.nn.1024x1024x1024",
        "gemm.nn.511x513x509",
        "experts.forward.even",
        "experts.dx.zipf",
        "experts.dw.one_pair",
        "experts.forward.e64k4",
        "experts.block.even",
        "svd.k8.2048x1408",
        "svd.k8.2048x1408.batch64",
        "svd.products.64x2048x1408",
        "gemm.nn.1024x1024x1024.f16",
        "spectral.step.d256",
        "spectral.step.d1024",
        "spectral.step.d1024.published",
        "spectral.step.d1024.direct",
        "spectral.step.d1024.token_space",
        "spectral.step.d1024.t8192",
        "spectral.refresh.d1024",
        "step.d256",
        "step.d256.recompute",
        "startup.tiny",
        "startup.tiny.pipeline_cache",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let place = Place::new();
    place.fails("bench speed", "invalid value 'speed'");
    place.fails(
        "bench gemm --filter gemm.xx",
        "config: --filter: no case contains `gemm.xx`; there are gemm.nn.512x512x512",
    );
    place.fails("bench --rounds 0", "config: --rounds: expected at least 1, got 0");
    place.fails("bench --seconds nan", "config: --seconds: expected a number of at least 0 and at most 86400, got NaN");
    place.fails(
        "bench --json missing/b.json",
        "config: --json: expected a file in a folder that exists, got missing/b.json",
    );
    place.fails("bench gemm --quick --adapter nothing", "adapter `nothing` not found");
}

#[test]
fn the_kernels_of_products_are_named_with_their_shapes() {
    let place = Place::new();
    place.runs("bench experts --tier gpu --quick --filter dw.even --json b.json");
    let all = figures(&place, "b.json");
    let kernels = of(&all, "experts.dw.even")["kernels"].as_array().unwrap();
    let name = kernels[0]["kernel"].as_str().unwrap();
    let block = name.strip_prefix("grouped_weight_gradient_workgroup_").unwrap_or_else(|| panic!("{kernels:?}"));
    let shape = kernels[0]["shape"].as_str().unwrap();
    assert!(shape.contains(&format!("{} a thread", block.replace('x', " x "))), "{kernels:?}");
}
