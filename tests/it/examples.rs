//! Every example runs to its end, and the README shows one of them. `cargo test` builds them beside the tests.

use std::path::Path;
use std::process::Command;

#[test]
fn every_example_runs() {
    let built = std::env::current_exe().unwrap();
    let built = built.ancestors().nth(2).unwrap().join("examples");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut ran = 0;
    for entry in std::fs::read_dir(sources).unwrap() {
        let source = entry.unwrap().path();
        if source.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let lines = std::fs::read_to_string(&source).unwrap().lines().count();
        assert!(lines < 100, "{} has {lines} lines", source.display());
        let program = built.join(source.file_stem().unwrap()).with_extension(std::env::consts::EXE_EXTENSION);
        let output = Command::new(&program)
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}; `cargo build --release --examples` builds it", program.display()));
        assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{} printed nothing", program.display());
        ran += 1;
    }
    assert!(ran >= 5, "{ran} examples");
}

#[test]
fn the_readme_shows_the_library_example_as_it_is() {
    let readme = include_str!("../../README.md").replace('\r', "");
    let example = include_str!("../../examples/train_on_device.rs").replace('\r', "");
    let code = example.split_once("\n\n").map_or("", |(_, code)| code).trim();
    assert!(readme.contains(code), "README.md differs from examples/train_on_device.rs");
}
