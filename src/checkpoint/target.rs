//! The files that belong to what a person points at: a run, a checkpoint, a Hugging Face folder, or one file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::foreign::{START, by_content, by_name, plain_file, there};
use super::names::shown;
use super::table::TensorTable;
use super::unique::Unique;
use super::{IDENTITY, MODEL_FILE, OPTIMIZER_FILE, OTHER_CHECKPOINT, locate};
use crate::error::{Error, Result};
use crate::files;

/// The file that says which shard holds which tensor.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

/// The longest index that is read, bytes: as the longest header of a file.
const MAX_INDEX: u64 = 100_000_000;

/// The longest `config.json` that is read, bytes: a thousand times what models have.
pub(super) const MAX_CONFIG: u64 = 10_000_000;

/// The path that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The folder of one of this program's runs.
    Run,
    /// One of this program's checkpoints.
    Checkpoint,
    /// A folder with `model.safetensors`, or with shards and their index.
    HuggingFace,
    /// One file.
    Safetensors,
}

impl Source {
    /// `run`, `checkpoint`, `hugging_face` or `safetensors`.
    pub fn name(self) -> &'static str {
        match self {
            Source::Run => "run",
            Source::Checkpoint => "checkpoint",
            Source::HuggingFace => "hugging_face",
            Source::Safetensors => "safetensors",
        }
    }
}

/// The files of a target, with their headers read.
#[derive(Debug)]
pub(super) struct Target {
    pub source: Source,
    /// The path that errors about the whole name: the folder, the index or the file.
    pub root: PathBuf,
    pub files: Vec<TensorTable>,
    /// Each tensor's file.
    pub tensors: BTreeMap<String, usize>,
    /// The entries that this program saved beside the tensors.
    pub entries: BTreeMap<String, String>,
    /// The settings of the `config.json` beside the files, where there is one.
    pub config: Config,
    /// Where one file was opened that is a part of a whole: which part, in words.
    pub part: Option<String>,
}

impl Target {
    /// Finds and checks the files of `path`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the file that is missing, damaged or contradicts another one; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        if there(path) && !path.is_dir() {
            plain_file(path)?;
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            return if name.ends_with(".index.json") { Self::sharded(path) } else { Self::file(path) };
        }
        let run = path.join("checkpoint");
        if !there(&path.join(MODEL_FILE))
            && let Ok(folder) = locate(&run)
        {
            return Self::folder(&folder, Source::Run);
        }
        let nothing = |_| {
            let found = fs::metadata(path).map_or("nothing", |about| files::kind(&about));
            let wanted =
                format!("expected a run, a checkpoint, a Hugging Face folder or a .safetensors file, found {found}");
            Error::checkpoint(path, wanted)
        };
        Self::folder(&locate(path).map_err(nothing)?, Source::HuggingFace)
    }

    /// The folder that the files lie in.
    pub fn directory(&self) -> PathBuf {
        if self.root.is_dir() { self.root.clone() } else { self.root.parent().map(Path::to_owned).unwrap_or_default() }
    }

    /// An error about one tensor.
    pub fn bad(&self, tensor: &str, message: impl std::fmt::Display) -> Error {
        match self.tensors.get(tensor) {
            Some(&file) => self.files[file].bad(tensor, message),
            None => Error::checkpoint(&self.root, format!("tensor `{}`: {message}", shown(tensor))),
        }
    }

    /// `model.safetensors`, or else shards with their index: the order in which transformers looks for them.
    fn folder(folder: &Path, source: Source) -> Result<Self> {
        if there(&folder.join(MODEL_FILE)) {
            return Self::single(&folder.join(MODEL_FILE), folder, source);
        }
        if there(&folder.join(INDEX_FILE)) {
            return Self::sharded(&folder.join(INDEX_FILE));
        }
        let (mut safetensors, mut others) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(folder).map_err(Error::io("reading", folder))? {
            let name = entry.map_err(Error::io("reading", folder))?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".safetensors") {
                safetensors.push(name);
            } else if let Some(format) = by_name(&name) {
                others.push((name, format));
            }
        }
        safetensors.sort();
        others.sort();
        let found = match (&safetensors[..], &others[..]) {
            ([], []) => "found no .safetensors file at all".into(),
            ([], [(name, format), more @ ..]) => {
                let more = if more.is_empty() { String::new() } else { format!(" and {} others", more.len()) };
                format!("found no .safetensors file, only {name}{more} ({format}), which this program does not read")
            }
            ([one], _) => format!("found only {one}, which can be given itself"),
            ([first, ..], _) => format!("found {first} and {} others without an index", safetensors.len() - 1),
        };
        Err(Error::checkpoint(folder, format!("expected {MODEL_FILE} or {INDEX_FILE}, {found}")))
    }

    fn file(path: &Path) -> Result<Self> {
        Self::single(path, path, Source::Safetensors)
    }

    /// One file; with the optimizer's state where it is this program's, because the decoupled parts lie there.
    fn single(path: &Path, root: &Path, source: Source) -> Result<Self> {
        let mut files = vec![TensorTable::open(path)?];
        let entries = files[0].own_entries()?;
        let optimizer = path.with_file_name(OPTIMIZER_FILE);
        let source = match source {
            Source::HuggingFace if entries.is_some() => Source::Checkpoint,
            Source::Run if entries.is_none() => Source::HuggingFace,
            source => source,
        };
        if let Some(entries) = &entries
            && path.file_name() == Some(OsStr::new(MODEL_FILE))
            && there(&optimizer)
        {
            let state = TensorTable::open(&optimizer)?;
            let mut of_state = state.own_entries()?.unwrap_or_default();
            let same = entries.get(IDENTITY) == of_state.get(IDENTITY);
            let (wanted, got) = (entries.get("step"), of_state.remove("step"));
            if wanted != got.as_ref() {
                let say = |step: Option<&String>| step.map_or("none".to_owned(), |s| format!("that of step {s}"));
                let message = format!("expected the state of the model, {}, got {}", say(wanted), say(got.as_ref()));
                return Err(Error::checkpoint(&optimizer, message));
            }
            if !same {
                return Err(Error::checkpoint(&optimizer, OTHER_CHECKPOINT));
            }
            files.push(state);
        }
        let mut tensors = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = tensors.insert(name.clone(), i) {
                    return Err(file.bad(&name, format!("is also in {}", files[other].path().display())));
                }
            }
        }
        let part = if source == Source::Safetensors { part(path) } else { None };
        let (root, entries) = (root.to_owned(), entries.unwrap_or_default());
        Ok(Self { source, root, files, tensors, entries, config: Config::beside(path), part })
    }

    /// Shards and their index. A tensor that a shard holds beyond the index is taken as well: transformers loads it, too.
    fn sharded(index_path: &Path) -> Result<Self> {
        let bad = |m: String| Error::checkpoint(index_path, m);
        let weight_map = read_index(index_path)?;
        let names: Vec<&String> = weight_map.values().collect::<BTreeSet<_>>().into_iter().collect();
        let mut files = Vec::new();
        for name in &names {
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(bad(format!("expected names of files in its own folder, got `{name}`")));
            }
            let shard = index_path.with_file_name(name);
            if !there(&shard) {
                let tensor = weight_map.iter().find(|(_, file)| file == name).map_or("", |(tensor, _)| tensor);
                return Err(bad(format!(
                    "names the shard {name}, for tensor `{}` and others, which is missing",
                    shown(tensor)
                )));
            }
            files.push(TensorTable::open(&shard)?);
        }
        let mut tensors = BTreeMap::new();
        for (tensor, file) in &weight_map {
            // All names of files are in `names`, sorted.
            let Ok(place) = names.binary_search(&file) else { continue };
            if files[place].info(tensor).is_none() {
                return Err(bad(format!("says that tensor `{}` is in {file}, which does not hold it", shown(tensor))));
            }
            tensors.insert(tensor.clone(), place);
        }
        for (place, file) in files.iter().enumerate() {
            for name in file.names().into_iter().filter(|name| !weight_map.contains_key(name)) {
                if let Some(other) = tensors.insert(name.clone(), place) {
                    let message = format!("is also in {}, and not in the index", files[other].path().display());
                    return Err(file.bad(&name, message));
                }
            }
        }
        let (root, config) = (index_path.to_owned(), Config::beside(index_path));
        Ok(Self { source: Source::HuggingFace, root, files, tensors, entries: BTreeMap::new(), config, part: None })
    }
}

/// Each tensor's file, as an index says.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Unique<String>,
    }
    let bad = |m: String| Error::checkpoint(path, m);
    let length = plain_file(path)?.len();
    if length > MAX_INDEX {
        return Err(bad(format!("expected an index of at most {MAX_INDEX} bytes, got {length}")));
    }
    let text = fs::read(path).map_err(Error::io("reading", path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| {
        bad(match by_content(&text[..text.len().min(START)]) {
            Some(what) => format!("expected an index with a `weight_map`, found {what}"),
            None => format!("expected an index with a `weight_map`: {e}"),
        })
    })?;
    Ok(index.weight_map.0.into_iter().collect())
}

/// Which part of a whole a file is, in words: by its name (`model-00001-of-00002`), or by an index beside it.
fn part(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    if let Some((number, count)) = numbered(name) {
        return (count > 1).then(|| format!("this is one shard, number {number} of {count}"));
    }
    // An index that cannot be read is no reason not to read this file.
    let index = read_index(&file.with_file_name(INDEX_FILE)).ok()?;
    let files: BTreeSet<&String> = index.values().collect();
    let count = files.len();
    files.into_iter().any(|f| f == name).then_some(())?;
    (count > 1).then(|| format!("this is one of the {count} files that {INDEX_FILE} names"))
}

/// 1 and 2 of `model-00001-of-00002.safetensors`.
fn numbered(name: &str) -> Option<(u64, u64)> {
    let (before, after) = name.rsplit_once("-of-")?;
    let digits = |c: char| c.is_ascii_digit();
    let (number, count) = (before.trim_end_matches(digits).len(), after.len() - after.trim_start_matches(digits).len());
    Some((before[number..].parse().ok()?, after[..count].parse().ok()?))
}

/// The fields of a `config.json` that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// `model_type`.
    pub model_type: Option<String>,
    /// Experts of a layer.
    pub experts: Option<u64>,
    /// Numbers of layers after the model's own that predict later tokens (DeepSeek-V3, GLM-4).
    pub later: Range<u64>,
}

impl Config {
    /// That of the `config.json` beside `file`. No number is read by it, so a damaged one only costs what it would have said.
    fn beside(file: &Path) -> Self {
        let path = file.with_file_name("config.json");
        if !there(&path) {
            return Self::default();
        }
        Self::read(&path).unwrap_or_else(|why| {
            log::warn!("{}: not used: {why}", path.display());
            Self::default()
        })
    }

    fn read(path: &Path) -> std::result::Result<Self, String> {
        let length = plain_file(path).map_err(|e| e.to_string())?.len();
        if length > MAX_CONFIG {
            return Err(format!("expected at most {MAX_CONFIG} bytes, got {length}"));
        }
        let text = fs::read(path).map_err(|e| e.to_string())?;
        let config: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        // Models of text and images keep the text's settings apart.
        let parts = [Some(&config), config.get("text_config")];
        let number = |key: &str| parts.into_iter().flatten().find_map(|part| part.get(key)?.as_u64());
        let layers = number("num_hidden_layers").unwrap_or(u64::MAX);
        Ok(Self {
            later: layers..layers.saturating_add(number("num_nextn_predict_layers").unwrap_or(0)),
            model_type: config.get("model_type").and_then(|t| t.as_str()).map(str::to_owned),
            experts: ["num_experts", "num_local_experts", "n_routed_experts"].into_iter().find_map(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_told_by_their_names() {
        assert_eq!(numbered("model-00001-of-00002.safetensors"), Some((1, 2)));
        assert_eq!(numbered("model.fp16-3-of-4-of-11.safetensors"), Some((4, 11)));
        for other in ["model.safetensors", "best-of-both.safetensors", "1-of-.safetensors", "-of-2"] {
            assert_eq!(numbered(other), None, "{other}");
        }
    }
}
