//! `sdmoe verify`: what it writes, and that wrong shaders, wrong files and wrong flags are told.

use std::collections::BTreeSet;
use std::process::Output;

use crate::common::place::Place;
use sdmoe::verify::{CaseReport, Event, Level, Options, run, run_without_threads};
use serde_json::Value;

/// `y[i] = FACTOR x[i] + i`, of whole workgroups, and with the bounds test that they need.
const RIGHT: &str = "
override FACTOR: f32 = 2.0;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn axpy(@builtin(global_invocation_id) id: vec3u) {
    if (id.x < arrayLength(&y)) {
        y[id.x] = FACTOR * x[id.x] + f32(id.x);
    }
}
";

const COUNT: usize = 100;

fn floats(f: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..COUNT).flat_map(|i| f(i).to_le_bytes()).collect()
}

/// A folder with the shader, its input, and what it should give.
fn place(wgsl: &str) -> Place {
    let place = Place::new();
    place.write("shader.wgsl", wgsl);
    place.write("x.bin", floats(|i| i as f32 * 0.5));
    place.write("y.bin", floats(|i| 4.0 * (i as f32 * 0.5) + i as f32));
    place
}

const RUN: &str =
    "verify --wgsl shader.wgsl --entry axpy --in x=x.bin --size y=400 --groups 2 --constant FACTOR=4 --expect y=y.bin";

/// Standard output of a command that ends with `code`.
fn output(place: &Place, args: &str, code: i32) -> String {
    let Output { status, stdout, stderr } = place.command(args).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "{args}: {out}{err}");
    out.into_owned()
}

#[test]
fn a_shader_that_does_what_is_expected_passes() {
    let place = place(RIGHT);
    let text = output(&place, &format!("{RUN} --out y=found.bin"), 0);
    assert!(text.contains("passed       as expected"), "{text}");
    assert_eq!(std::fs::read(place.path("found.bin")).unwrap(), std::fs::read(place.path("y.bin")).unwrap());
    // The one entry point need not be named, and a tolerance may be given.
    let text = output(&place, &format!("{} --tolerance 1e-6", RUN.replace("--entry axpy ", "")), 0);
    assert!(text.contains("0.000 of the tolerance"), "{text}");
}

#[test]
fn a_shader_that_is_off_by_one_fails_with_the_element_and_can_be_run_again() {
    let wrong = RIGHT.replace("+ f32(id.x)", "+ f32(id.x + u32(id.x == 70u))");
    let place = place(&wrong);
    let text = output(&place, &format!("{RUN} --dump again"), 1);
    assert!(text.contains("FAILED       `y`: element 70 is 211.0, expected 210.0; 1 of 100 differ"), "{text}");
    for file in ["job.json", "shader.wgsl", "shader.metal", "shader.hlsl", "in/x.bin", "expected/y.bin", "found/y.bin"]
    {
        assert!(place.path("again").join(file).exists(), "{file}");
    }
    assert!(place.read("again/shader.metal").contains("kernel void axpy"));
    assert_eq!(std::fs::read(place.path("again/shader.spv")).unwrap()[..4], 0x0723_0203u32.to_le_bytes());
    let text = output(&place, "verify --replay again", 1);
    assert!(text.contains("element 70 is 211.0, expected 210.0"), "{text}");
    place.write("again/shader.wgsl", RIGHT);
    assert!(output(&place, "verify --replay again", 0).contains("passes"));
}

#[test]
fn elements_that_are_not_written_and_results_that_differ_are_told() {
    let place = place(&RIGHT.replace("if (id.x < arrayLength(&y))", "if (id.x < arrayLength(&y) - 3u)"));
    let run = RUN.replace(" --expect y=y.bin", "");
    let text = output(&place, &run, 1);
    assert!(text.contains("`y`: element 97 was never written; 3 of 100 were not"), "{text}");
    // With content of its own nothing needs to be written.
    let zero = run.replace("--size y=400", "--zero y=400");
    output(&place, &zero, 0);
    // What is read before it is written is poison, and not the same in the next run.
    place.write(
        "shader.wgsl",
        RIGHT.replace(
            "y[id.x] = ",
            "y[id.x] = 0.0 * f32(bitcast<u32>(y[id.x]) & 0xffu) + f32(bitcast<u32>(y[id.x]) & 0xffu) + ",
        ),
    );
    let text = output(&place, &run, 1);
    assert!(text.contains("in run 1 and") && text.contains("in run 2"), "{text}");
}

#[test]
fn a_mistake_in_a_shaders_flags_is_one_line() {
    let place = place(RIGHT);
    for (from, to, expected) in [
        ("--entry axpy", "--entry other", "no compute entry point `other`; there are axpy"),
        ("--size y=400 ", "", "the size of `y` is not known"),
        ("--size y=400", "--size y=402", "whole words of 4 bytes, got 402"),
        ("--size y=400", "--size y=many", "--size: `y`: expected a number, got many"),
        ("--size y=400", "--size y=200", "`y` has 200 bytes, 400 are expected of it"),
        ("--in x=x.bin ", "", "the size of `x` is not known"),
        ("--in x=x.bin", "--in x=none.bin", "reading none.bin"),
        ("--in x=x.bin", "--in x", "expected NAME=VALUE, got x"),
        ("--constant FACTOR=4", "--constant OTHER=4", "no override constant `OTHER`; there are FACTOR"),
        ("--size y=400", "--size z=400 --size y=400", "`axpy` binds no `z`; it binds x, y"),
        ("--expect y=y.bin", "--expect x=x.bin", "`x` is not written, so nothing can be expected of it"),
        ("--expect y=y.bin", "--out x=z.bin", "`axpy` writes no `x`"),
        ("--wgsl shader.wgsl", "--wgsl missing.wgsl", "reading missing.wgsl"),
        ("--groups 2", "--groups 70000", "refused by the device"),
    ] {
        let args = RUN.replace(from, to);
        let got = place.command(&args).output().unwrap();
        let message = String::from_utf8_lossy(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{args}: {message}");
        assert!(message.starts_with("error: ") && message.contains(expected), "{args}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{args}: {message}");
    }
    place.write("shader.wgsl", RIGHT.replace("f32(id.x)", "g32(id.x)"));
    place.fails(RUN, "line 8, column 38: no definition in scope for identifier");
    place.fails("verify --entry axpy", "--wgsl");
    place.fails("verify --replay nowhere", "expected a folder that --dump made");
}

#[test]
fn without_threads_the_same_cases_end_in_the_same_way() {
    let mut options = Options::default();
    options.level = Level::Quick;
    options.filter = Some("op/swiglu".into());
    let mut planned = 0;
    let mut on = |event: Event<'_>| {
        if let Event::Planned(cases) = event {
            planned = cases;
        }
    };
    let one = pollster::block_on(run_without_threads(&options, &mut on)).unwrap();
    let other = run(&options, &mut |_| {}).unwrap();
    let told = |case: &CaseReport| (case.name.clone(), case.variant.clone(), case.outcome.clone(), case.worst_error);
    let all = |report: &sdmoe::verify::Report| report.adapters[0].cases.iter().map(told).collect::<Vec<_>>();
    assert_eq!(all(&one), all(&other));
    assert_eq!((planned, one.adapters[0].kernels.len()), (all(&one).len(), other.adapters[0].kernels.len()));
}

#[test]
fn probes_of_the_driver_give_a_report_in_three_forms() {
    let place = Place::new();
    let text = output(&place, "verify --quick --filter probe/ --json r.json --markdown r.md --junit r.xml", 0);
    assert!(text.contains("\nas expected: ") && text.contains("probe/workgroup"), "{text}");
    let report: Value = serde_json::from_str(&place.read("r.json")).unwrap();
    let adapter = &report["adapters"][0];
    assert!(report["host"]["wgpu"].as_str().unwrap().starts_with("30."), "{report}");
    for name in ["name", "backend", "driver", "vendor", "subgroup_size", "limits", "features", "tier"] {
        assert!(!adapter["header"][name].is_null(), "{name} in {adapter}");
    }
    let cases = adapter["cases"].as_array().unwrap();
    assert!(cases.len() > 20, "{adapter}");
    assert!(cases.iter().all(|c| ["passed", "known_failure"].contains(&c["outcome"].as_str().unwrap())), "{adapter}");
    let markdown = place.read("r.md");
    assert!(
        markdown.contains("| probe/workgroup | driver |") && markdown.contains("| versions | sdmoe "),
        "{markdown}"
    );
    let xml = place.read("r.xml");
    let document = roxmltree::Document::parse(&xml).unwrap();
    let count = document.descendants().filter(|n| n.has_tag_name("testcase")).count();
    assert_eq!(count, cases.len());
}

#[test]
fn kernels_of_every_tier_are_compared_with_f64() {
    use sdmoe::verify::{Event, Level, Options, Verdict, run};
    let mut options = Options::default();
    options.level = Level::Quick;
    options.gpu.tier = Some(crate::common::gpu().tier());
    let mut groups = Vec::new();
    for filter in ["op/add", "gemm/factors", "grouped/", "routing/", "linalg/small", "optimizer/", "spectral/"] {
        options.filter = Some(filter.into());
        let report = run(&options, &mut |event| {
            if let Event::Group(cases) = event {
                groups.push(cases[0].group().to_owned());
            }
        })
        .unwrap();
        assert_eq!(report.verdict(), Verdict::AsExpected, "{filter}: {report:?}");
        let known: BTreeSet<&str> = LAUNCHED.lines().collect();
        let kernels = &report.adapters[0].kernels;
        assert!(!kernels.is_empty() && kernels.is_subset(&known), "{filter}: {:?}", kernels.difference(&known));
        let share = report.adapters[0].cases.iter().filter_map(|c| c.share_of_tolerance).fold(0.0, f64::max);
        assert!(share < 1.0, "{filter}: {share}");
    }
    assert!(groups.contains(&"grouped/products".to_owned()), "{groups:?}");
}

#[test]
fn wrong_flags_are_told_before_a_device_is_opened() {
    let place = Place::new();
    place.fails("verify --filter nothing-like-this", "--filter: no case of this level contains `nothing-like-this`");
    place.fails("verify --quick --full", "cannot be used with");
    place.fails("verify --json missing/r.json", "--json: expected a file in a folder that exists");
    place.fails("verify --adapter nosuchadapter", "adapter `nosuchadapter` not found");
    let names = place.runs("verify --list --quick --filter op/");
    assert!(names.lines().any(|name| name == "op/rms_norm/7x33"), "{names}");
}

/// The kernels that a run of `sdmoe verify` at the usual level launches on llvmpipe, from `kernels` of its `--json`.
const LAUNCHED: &str = include_str!("../launched_by_verify.txt");

/// Kernels that no case launches there, by groups, and why.
const NOT_LAUNCHED: &[(&[&str], &str)] = &[
    (
        &[
            "gemm_cooperative_16_2x2",
            "gemm_cooperative_16_2x4",
            "gemm_cooperative_8_2x2",
            "gemm_cooperative_8_2x4",
            "grouped_gemm_cooperative_16_2x2",
            "grouped_gemm_cooperative_16_2x4",
            "grouped_gemm_cooperative_8_2x2",
            "grouped_gemm_cooperative_8_2x4",
            "grouped_weight_gradient_cooperative_16_2x2",
            "grouped_weight_gradient_cooperative_16_2x4",
            "grouped_weight_gradient_cooperative_8_2x2",
            "grouped_weight_gradient_cooperative_8_2x4",
        ],
        "cases of matrix units launch them on adapters that have some",
    ),
    (
        &[
            "grouped_gemm_subgroup_scalar_c",
            "left_factors_rows",
            "pad",
            "spectral_adam_follow_rows",
            "spectral_adam_rows",
            "spectral_apply_rows",
            "spectral_products_rows",
            "sum_blocks_rows",
        ],
        "for software adapters without 64-bit integers, where the same cases launch them",
    ),
    (
        &[
            "grouped_gemm_subgroup_u64_scalar_c",
            "grouped_weight_gradient_plain_scalar_c",
            "grouped_weight_gradient_subgroup_scalar_c",
            "grouped_weight_gradient_subgroup_u64_along",
            "grouped_weight_gradient_subgroup_u64_along_scalar_c",
            "grouped_weight_gradient_subgroup_u64_scalar_c",
            "grouped_weight_gradient_workgroup_4x4_scalar_c",
            "grouped_weight_gradient_workgroup_8x4_scalar_c",
            "grouped_weight_gradient_workgroup_8x8_scalar_c",
        ],
        "of the family, but no product of that form has rows that would choose them",
    ),
    (
        &[
            "combine_backward_workgroup_u64",
            "combine_workgroup_u64",
            "permute_backward_workgroup_u64",
            "permute_workgroup_u64",
            "rms_norm_dx_workgroup_u64",
            "rms_norm_workgroup_u64",
            "sigmoid_gate_backward_workgroup_u64",
            "sigmoid_gate_workgroup_u64",
        ],
        "for rows of a million elements and more on a software adapter",
    ),
    (
        &["round_into_u64"],
        "of the family, for a target in f32; only targets in f16 are rounded into, which are not stored as u64",
    ),
];

#[test]
fn every_kernel_is_launched_by_a_case_of_verify_or_has_a_reason_why_not() {
    let launched: BTreeSet<&str> = LAUNCHED.lines().collect();
    let excepted: BTreeSet<&str> = NOT_LAUNCHED.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    let all: BTreeSet<&str> = sdmoe::low_level::catalog::kernels().iter().map(|variant| variant.kernel.name).collect();
    let known: BTreeSet<&str> = launched.union(&excepted).copied().collect();
    let missing: Vec<_> = all.difference(&known).collect();
    assert!(missing.is_empty(), "no case launches {missing:?}: add one, run `sdmoe verify --json`, and add the names");
    let gone: Vec<_> = known.difference(&all).collect();
    assert!(gone.is_empty(), "there are no such kernels: {gone:?}");
    let both: Vec<_> = launched.intersection(&excepted).collect();
    assert!(both.is_empty(), "cases launch {both:?}, which are excepted");
}

#[test]
fn a_case_runs_beside_another_adapter_and_tells_how_far_they_are_apart() {
    let place = Place::new();
    // The only adapter that every machine of the tests has: itself.
    let index = crate::common::gpu().adapter().index;
    let args =
        format!("verify --quick --filter op/add --adapter {index} --reference {index} --json r.json --markdown r.md");
    let text = output(&place, &args, 0);
    assert!(text.contains("reference: 0"), "{text}");
    let report: Value = serde_json::from_str(&place.read("r.json")).unwrap();
    let adapter = &report["adapters"][0];
    let cases = adapter["cases"].as_array().unwrap();
    let ran = cases.iter().filter(|case| case["outcome"] == "passed");
    let mut compared = 0;
    for case in ran {
        let beside = &case["reference"];
        assert_eq!((&beside["outcome"], &beside["difference"]["elements"]), (&"passed".into(), &0.into()), "{case}");
        assert!(beside["difference"]["of"].as_u64() > Some(0) && beside["difference"]["largest"] == 0.0, "{case}");
        compared += 1;
    }
    assert!(compared > 0 && adapter["reference"].as_str().unwrap().contains("("), "{adapter}");
    let markdown = place.read("r.md");
    assert!(
        markdown.contains("| differs from the reference by |") && markdown.contains("| reference | "),
        "{markdown}"
    );
    place.fails("verify --quick --filter op/add --reference nosuchadapter", "adapter `nosuchadapter` not found");
}
