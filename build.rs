//! Two things are embedded in the binary, and the versions of wgpu and naga, which `sdmoe verify` names.
//!
//! The shaders, so that one finds the fragments that it needs (`src/gpu/wgsl.rs`); that each fragment is there is checked here.
//!
//! And the corpus that `sdmoe train` uses without `--data`: the project's sources and documents in one file, with the length of
//! each beside it, for the end of every one is held out. An installed `sdmoe` trains on the same text wherever it is started.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Collects the text files below `path`, in the order of their names.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
    } else if path.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        for entry in entries {
            let text = entry.extension().is_some_and(|e| ["rs", "wgsl", "md"].iter().any(|t| e == *t));
            if text || entry.is_dir() {
                collect(&entry, files)?;
            }
        }
    }
    Ok(())
}

/// The items of the lines of a shader that begin with `// key:`.
fn items<'a>(source: &'a str, key: &str) -> Vec<&'a str> {
    let lines =
        source.lines().filter_map(|line| line.trim_start().strip_prefix("// ")?.strip_prefix(key)?.strip_prefix(':'));
    lines.flat_map(|list| list.split(',')).map(str::trim).collect()
}

/// Writes the list of all shaders, names and contents.
fn embed_shaders(out: &Path) -> Result<(), Box<dyn Error>> {
    let root = Path::new("shaders");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    let mut shaders = Vec::new();
    for file in &files {
        let name = file.strip_prefix(root)?.to_str().ok_or("a shader's name is not UTF-8")?.replace('\\', "/");
        shaders.push((name, fs::read_to_string(file)?));
    }
    let provided: Vec<&str> = shaders.iter().flat_map(|(_, text)| items(text, "provides")).collect();
    let needed: Vec<&str> = shaders.iter().flat_map(|(_, text)| items(text, "needs")).collect();
    for (name, text) in &shaders {
        for need in items(text, "needs") {
            if !provided.contains(&need) && !shaders.iter().any(|(other, _)| other == need) {
                return Err(format!("shaders/{name} needs `{need}`, which no file is called and none provides").into());
            }
        }
        if let Some(word) = items(text, "provides").into_iter().find(|word| !needed.contains(word)) {
            return Err(format!("shaders/{name} provides `{word}`, which no shader needs").into());
        }
    }
    let text = |name: &str| format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/shaders/{name}\"))");
    let entries: String = shaders.iter().map(|(name, _)| format!("    ({name:?}, {}),\n", text(name))).collect();
    let list = format!("pub(super) const FILES: &[(&str, &str)] = &[\n{entries}];\n");
    Ok(fs::write(out.join("shaders.rs"), list)?)
}

/// The version of a package that Cargo.lock names; none where there is no such file.
fn locked(name: &str) -> Option<String> {
    let lock = fs::read_to_string("Cargo.lock").ok()?;
    let package = lock.split("[[package]]").find(|p| p.lines().any(|line| line == format!("name = \"{name}\"")))?;
    let version = package.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(version.trim_matches('"').to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    // `sdmoe verify` names them; as a dependency the crate does not see the lock file.
    println!("cargo::rerun-if-changed=Cargo.lock");
    for (name, variable) in [("wgpu", "SDMOE_WGPU_VERSION"), ("naga", "SDMOE_NAGA_VERSION")] {
        println!("cargo::rustc-env={variable}={}", locked(name).unwrap_or_else(|| "30".into()));
    }
    let mut files = Vec::new();
    for root in ["README.md", "docs", "shaders", "src"] {
        let root = Path::new(root);
        if root.exists() {
            println!("cargo::rerun-if-changed={}", root.display());
            collect(root, &mut files)?;
        }
    }
    let (mut corpus, mut lengths) = (Vec::new(), Vec::new());
    for file in &files {
        let before = corpus.len();
        // A checkout with CRLF line ends trains on the same bytes.
        corpus.extend(fs::read(file)?.into_iter().filter(|b| *b != b'\r'));
        lengths.push(corpus.len() - before);
    }
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    embed_shaders(&out)?;
    fs::write(out.join("own_lengths.rs"), format!("&{lengths:?}"))?;
    Ok(fs::write(out.join("own_sources.bin"), corpus)?)
}
