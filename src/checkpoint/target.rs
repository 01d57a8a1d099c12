//! The files that belong to what a person points at: a run, a checkpoint, a Hugging Face folder, or one file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::header::TensorTable;
use super::{IDENTITY, MODEL_FILE, OPTIMIZER_FILE, OTHER_CHECKPOINT, locate};
use crate::error::{Error, Result};
use crate::files;

/// The file that says which shard holds which tensor.
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The longest index that is read, bytes: as the longest header of a file.
const MAX_INDEX: u64 = 100_000_000;

/// What was pointed at.
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
    /// What errors about the whole name: the folder, the index or the file.
    pub root: PathBuf,
    pub files: Vec<TensorTable>,
    /// Each tensor's file.
    pub tensors: BTreeMap<String, usize>,
    /// What this program saved beside the tensors.
    pub entries: BTreeMap<String, String>,
    /// `model_type` of the `config.json` beside the files, where there is one.
    pub model_type: Option<String>,
}

impl Target {
    /// Finds and checks the files of `path`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the file that is missing, damaged or contradicts another one; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            return if name.ends_with(".index.json") { Self::sharded(path) } else { Self::file(path) };
        }
        let run = path.join("checkpoint");
        if !path.join(MODEL_FILE).exists()
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

    /// `model.safetensors`, or else shards with their index: the order in which transformers looks for them.
    fn folder(folder: &Path, source: Source) -> Result<Self> {
        if folder.join(MODEL_FILE).exists() {
            return Self::single(&folder.join(MODEL_FILE), folder, source);
        }
        if folder.join(INDEX_FILE).exists() {
            return Self::sharded(&folder.join(INDEX_FILE));
        }
        let mut there = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io("reading", folder))? {
            let name = entry.map_err(Error::io("reading", folder))?.file_name().to_string_lossy().into_owned();
            there.extend(name.ends_with(".safetensors").then_some(name));
        }
        there.sort();
        let found = match &there[..] {
            [] => "found no .safetensors file at all".into(),
            [one] => format!("found only {one}, which can be given itself"),
            [first, ..] => format!("found {first} and {} others without an index", there.len() - 1),
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
            && optimizer.exists()
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
        let model_type = model_type(path);
        Ok(Self { source, root: root.to_owned(), files, tensors, entries: entries.unwrap_or_default(), model_type })
    }

    /// Shards and their index. A tensor that a shard holds beyond the index is taken as well: transformers loads it, too.
    fn sharded(index_path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let bad = |m: String| Error::checkpoint(index_path, m);
        let length = fs::metadata(index_path).map_err(Error::io("reading", index_path))?.len();
        if length > MAX_INDEX {
            return Err(bad(format!("expected an index of at most {MAX_INDEX} bytes, got {length}")));
        }
        let text = files::read(index_path)?;
        let Index { weight_map } =
            serde_json::from_slice(&text).map_err(|e| bad(format!("expected an index with a `weight_map`: {e}")))?;
        let names: Vec<&String> = weight_map.values().collect::<BTreeSet<_>>().into_iter().collect();
        let mut files = Vec::new();
        for name in &names {
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(bad(format!("expected names of files in its own folder, got `{name}`")));
            }
            let shard = index_path.with_file_name(name);
            if !shard.exists() {
                let tensor = weight_map.iter().find(|(_, file)| file == name).map_or("", |(tensor, _)| tensor);
                return Err(bad(format!("names the shard {name}, for tensor `{tensor}` and others, which is missing")));
            }
            files.push(TensorTable::open(&shard)?);
        }
        let mut tensors = BTreeMap::new();
        for (tensor, file) in &weight_map {
            // All names of files are in `names`, sorted.
            let Ok(place) = names.binary_search(&file) else { continue };
            if files[place].info(tensor).is_none() {
                return Err(bad(format!("says that tensor `{tensor}` is in {file}, which does not hold it")));
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
        let (root, model_type) = (index_path.to_owned(), model_type(index_path));
        Ok(Self { source: Source::HuggingFace, root, files, tensors, entries: BTreeMap::new(), model_type })
    }
}

/// `model_type` of the `config.json` beside `file`; nothing else of it is needed, so a damaged one only costs the name.
fn model_type(file: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        model_type: Option<String>,
    }
    let text = files::read(&file.with_file_name("config.json")).ok()?;
    match serde_json::from_slice::<Config>(&text) {
        Ok(config) => config.model_type,
        Err(e) => {
            log::warn!("{}: not used: {e}", file.with_file_name("config.json").display());
            None
        }
    }
}
