//! Data flows one way through the modules: each imports only from those before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src`, in the order of the flow; those of one entry may use each other.
const ORDER: &[&[&str]] = &[
    &["error"],
    &["files", "setters"],
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
    &["verify"],
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

/// A source without its comments.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The words of a source, and the signs between them, one by one.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            _ => word,
        };
        if !first.is_whitespace() {
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

#[test]
fn unsafe_code_is_in_one_module_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "benches", "experiments", "examples"]
        .iter()
        .for_each(|folder| sources(&root.join(folder), &mut files));
    // In two parts, so that it is not found here.
    let keyword = ["un", "safe"].concat();
    files.retain(|file| tokens(&without_comments(&fs::read_to_string(file).unwrap())).contains(&&*keyword));
    assert_eq!(files, [root.join("src/gpu/unsafe_code.rs")]);
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

/// Paths of modules, from the root of the crate: `["gpu", "launch"]`.
type Module = Vec<String>;

/// The module that the file at `path` is, relative to `src`.
fn module(path: &Path) -> Module {
    let names = path.with_extension("");
    let mut names: Module = names.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    names.pop_if(|name| name == "mod");
    names
}

/// Adds to `found` what the path that begins at `tokens[at]` names, with all branches of its braces, after the names `begun`.
/// Returns the place behind it.
fn paths(tokens: &[&str], mut at: usize, mut begun: Module, found: &mut Vec<Module>) -> usize {
    while at < tokens.len() {
        match tokens[at] {
            "{" => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = paths(tokens, at, begun.clone(), found);
                    at += usize::from(tokens.get(at) == Some(&","));
                }
                return at + 1;
            }
            "super" => drop(begun.pop()),
            "self" => {}
            name => begun.push(name.to_owned()),
        }
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    found.push(begun);
    // `as Name` or `as _`.
    if tokens.get(at) == Some(&"as") { at + 2 } else { at }
}

/// Whatever a source names after `crate::` and `super::`, from the root of the crate.
fn named(own: &Module, text: &str) -> Vec<Module> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = matches!(tokens[at], "crate" | "super") && tokens.get(at + 1) == Some(&"::");
        at = match tokens[at] {
            "crate" if begins => paths(&tokens, at + 2, Module::new(), &mut found),
            "super" if begins => paths(&tokens, at, own.clone(), &mut found),
            _ => at + 1,
        };
    }
    found
}

/// The modules that reach each other, themselves included: `reaches` says what each of them imports.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<&Module> {
    let reached = |start: &Module| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = imports[start].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module) {
                next.extend(&imports[module]);
            }
        }
        reached
    };
    imports.keys().filter(|&module| reached(module).contains(module)).collect()
}

#[test]
fn no_module_imports_in_a_circle_within_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let text = without_comments(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
        (module(file.strip_prefix(&root).unwrap()), text)
    };
    let files: Vec<(Module, String)> = files.iter().map(read).collect();
    let mut imports: BTreeMap<Module, BTreeSet<Module>> =
        files.iter().map(|(own, _)| (own.clone(), BTreeSet::new())).collect();
    for (own, text) in &files {
        for path in named(own, text) {
            // The file that the path leads to, of the same module; its own children and parents are one with it.
            let file = (1..=path.len()).rev().map(|n| &path[..n]).find(|file| imports.contains_key(*file));
            if let Some(to) = file
                && to[0] == own[0]
                && !own.starts_with(to)
                && !to.starts_with(own)
            {
                imports.get_mut(own).unwrap().insert(to.to_vec());
            }
        }
    }
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 200, "found too few imports");
    let circles = circles(&imports);
    assert!(circles.is_empty(), "these import each other in a circle: {circles:?}");
}
