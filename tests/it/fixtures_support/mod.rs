//! Reading fixtures: a group is a folder with a `manifest.json`, a case is a `.safetensors` file of it. Names, shapes and
//! scalars come from the files.

pub mod block;
pub mod decouple;
pub mod hf;
pub mod linalg;
pub mod metrics;
pub mod metrics_data;
pub mod metrics_weights;
pub mod spectral;
pub mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use serde_json::Value;

/// Runs one case on one device; the error says what differs.
pub type Runner = fn(&Gpu, &Case) -> Result<(), String>;

/// A case: its tensors, widened to f64 (indices and counts as whole numbers), and its `meta` object.
pub struct Case {
    pub name: String,
    pub tensors: BTreeMap<String, Array>,
    pub meta: Value,
}

impl Case {
    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Result<&Array, String> {
        self.tensors
            .get(name)
            .ok_or_else(|| format!("no tensor `{name}`; there are {:?}", self.tensors.keys().collect::<Vec<_>>()))
    }

    /// The number at `path` in `meta`; `None` where it is absent or null.
    pub fn number(&self, path: &[&str]) -> Option<f64> {
        path.iter().try_fold(&self.meta, |value, key| value.get(key))?.as_f64()
    }

    /// The number at `path` in `meta`, which must be there.
    pub fn need(&self, path: &[&str]) -> Result<f64, String> {
        self.number(path).ok_or_else(|| format!("meta.{}: expected a number", path.join(".")))
    }
}

/// The folder of the fixtures: `SDMOE_FIXTURES`, or `tests/fixtures`.
pub fn root() -> PathBuf {
    std::env::var_os("SDMOE_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), PathBuf::from)
}

/// Names of what lies in `folder`, in order: its folders, or its `.safetensors` files.
pub fn entries(folder: &Path, folders: bool) -> Result<Vec<String>, String> {
    let list = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut names = Vec::new();
    for entry in list {
        let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
        let wanted = if folders { path.is_dir() } else { path.extension().is_some_and(|e| e == "safetensors") };
        if let (true, Some(name)) = (wanted, path.file_name().and_then(|n| n.to_str())) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Every case found in a group, checked against the group's manifest. A case of the manifest may be absent as a file.
pub fn cases(group: &Path) -> Result<Vec<Case>, String> {
    let path = group.join("manifest.json");
    let text = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let manifest: Value = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    entries(group, false)?.into_iter().map(|file| case(&group.join(&file), &file, &manifest["files"][&file])).collect()
}

fn case(path: &Path, file: &str, entry: &Value) -> Result<Case, String> {
    let fail = |message: String| format!("{}: {message}", path.display());
    if entry.is_null() {
        return Err(fail("not in the manifest".into()));
    }
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    if entry["bytes"].as_u64().is_some_and(|size| size != bytes.len() as u64) {
        return Err(fail(format!("{} bytes, the manifest says {}", bytes.len(), entry["bytes"])));
    }
    let file_tensors = SafeTensors::deserialize(&bytes).map_err(|e| fail(e.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file_tensors.tensors() {
        let listed: Vec<u64> = entry["tensors"][&name]["shape"]
            .as_array()
            .ok_or_else(|| fail(format!("`{name}` is not in the manifest")))?
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        if !listed.iter().map(|&d| d as usize).eq(view.shape().iter().copied()) {
            return Err(fail(format!("`{name}`: {:?}, the manifest says {listed:?}", view.shape())));
        }
        let data = widen(view.dtype(), view.data()).ok_or_else(|| fail(format!("`{name}`: {:?}", view.dtype())))?;
        tensors.insert(name, Array::new(view.shape(), data));
    }
    let listed = entry["tensors"].as_object().map_or(0, serde_json::Map::len);
    if listed != tensors.len() {
        return Err(fail(format!("{} tensors, the manifest says {listed}", tensors.len())));
    }
    let name = file.trim_end_matches(".safetensors").to_owned();
    Ok(Case { name, tensors, meta: entry["meta"].clone() })
}

/// All tensors of a file, without a look at a manifest.
pub fn tensors(path: &Path) -> Result<BTreeMap<String, Array>, String> {
    let fail = |message: String| format!("{}: {message}", path.display());
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| fail(e.to_string()))?;
    let widened = file.tensors().into_iter().map(|(name, view)| {
        let data = widen(view.dtype(), view.data()).ok_or_else(|| fail(format!("`{name}`: {:?}", view.dtype())))?;
        Ok((name, Array::new(view.shape(), data)))
    });
    widened.collect()
}

/// Little-endian elements as f64; every fixture's integer is below 2^53.
fn widen(dtype: Dtype, data: &[u8]) -> Option<Vec<f64>> {
    fn each<const N: usize>(data: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>().0.iter().map(|&bytes| f(bytes)).collect()
    }
    Some(match dtype {
        Dtype::F64 => each(data, f64::from_le_bytes),
        Dtype::F32 => each(data, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::I64 => each(data, |b| i64::from_le_bytes(b) as f64),
        Dtype::I32 => each(data, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::U32 => each(data, |b| f64::from(u32::from_le_bytes(b))),
        Dtype::U8 | Dtype::BOOL => each(data, |[b]| f64::from(b)),
        _ => return None,
    })
}
