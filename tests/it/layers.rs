//! Data flows one way through the modules: each imports only from those before it.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src`, in the order of the flow; those of one entry may use each other.
const ORDER: &[&[&str]] = &[
    &["error"],
    &["files"],
    &["gpu"],
    &["tensor"],
    &["kernels"],
    &["autograd"],
    &["linalg", "ops"],
    &["nn"],
    &["optim"],
    &["checkpoint", "data"],
    &["train"],
    &["prelude"],
    &["analysis", "bench"],
    &["report"],
    &["catalog"],
    &["cli"],
];

fn position(module: &str) -> Option<usize> {
    ORDER.iter().position(|group| group.contains(&module))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a source names after `crate::`.
fn uses(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .flat_map(|line| line.split("crate::").skip(1))
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split(',').map(str::to_owned).collect::<Vec<_>>(),
            None => vec![rest.to_owned()],
        })
        .map(|path| path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn no_file_of_tests_is_left_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = fs::read_to_string(root.join("main.rs")).unwrap();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            module == "main" || main.contains(&format!("mod {module};")),
            "main.rs does not name {}",
            path.display()
        );
    }
}

#[test]
fn what_is_unsafe_is_in_one_module_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "benches", "experiments", "examples"]
        .iter()
        .for_each(|folder| sources(&root.join(folder), &mut files));
    // In two parts, so that it is not found here.
    let lint = ["unsafe", "_code"].concat();
    files.retain(|file| fs::read_to_string(file).unwrap().contains(&lint));
    assert_eq!(files, [root.join("src/gpu/trusted.rs")], "the lint `deny` keeps it out of the rest");
}

#[test]
fn no_module_imports_from_one_to_its_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut checked = 0;
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let own = position(module).unwrap_or_else(|| panic!("`{module}` has no place in the order of {}", file!()));
        for used in uses(&fs::read_to_string(&file).unwrap()) {
            if let Some(place) = position(&used) {
                checked += 1;
                assert!(place <= own, "{}: `{module}` imports from `{used}`, which comes after it", relative.display());
            }
        }
    }
    assert!(checked > 20, "found only {checked} imports");
}
