//! Writing a model as a Hugging Face folder: the inverse of [`super::pretrained`], matrix by matrix.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use super::MODEL_FILE;
use super::blocks::transpose;
use super::folder::create_atomically;
use super::target::INDEX_FILE;
use crate::error::{Error, Result};
use crate::nn::families::{FamilyModel, HubTensor, Layout, Parameter, TensorMap};

/// The type of the numbers in the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportType {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, ties to even; state beside the parameters stays f32, as published models have it.
    Bf16,
}

/// How a model is written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExportOptions {
    /// The type of the numbers.
    pub dtype: ExportType,
    /// How experts lie in tensors.
    pub layout: Layout,
    /// Bytes of tensors beyond which a model is split into shards with an index; 5 GB, as on the hub.
    pub shard_bytes: u64,
    /// Files that are copied into the folder: a tokenizer's.
    pub copies: Vec<PathBuf>,
    /// The text of a `config.json` of which the written one has all fields: that of the folder which the model came from.
    pub like: Option<String>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            dtype: ExportType::F32,
            layout: Layout::PerExpert,
            shard_bytes: 5_000_000_000,
            copies: Vec::new(),
            like: None,
        }
    }
}

/// Writes a model into the new folder `dir`: `config.json`, `model.safetensors` or shards with their index, and copies.
/// `values` fills a range of a parameter, `(parameter, first element, numbers)`; it is asked for a matrix at a time. The
/// folder is there as a whole, or not at all.
///
/// # Errors
/// [`Error::Checkpoint`] when something stands at `dir`, or a number is not finite in the type that is written;
/// [`Error::Config`] when the family cannot have the model's settings, or `like` describes another model; [`Error::Io`]; those of `values`.
pub fn export(
    dir: &Path,
    model: &FamilyModel,
    options: &ExportOptions,
    mut values: impl FnMut(&Parameter, usize, &mut [f32]) -> Result<()>,
) -> Result<()> {
    let dtype = if options.dtype == ExportType::Bf16 { "bfloat16" } else { "float32" };
    let model = &FamilyModel { dtype: Some(dtype.into()), ..model.clone() };
    let config = match &options.like {
        Some(source) => model.to_json_like(source)?,
        None => model.to_json()?,
    };
    let map = TensorMap::new(model.family, &model.config, options.layout);
    let shards = shards(&map, options);
    create_atomically(dir, |folder| {
        let write = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, content).map_err(Error::io("writing", &path))
        };
        write("config.json", config.as_bytes())?;
        let (mut index, mut total) = (BTreeMap::new(), 0);
        for (i, tensors) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => MODEL_FILE.to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            total += write_shard(&folder.join(&name), &map, tensors.clone(), options, &mut values)?;
            index.extend(map.tensors[tensors.clone()].iter().map(|t| (t.name.clone(), name.clone())));
        }
        if shards.len() > 1 {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": index });
            write(INDEX_FILE, format!("{index:#}\n").as_bytes())?;
        }
        for from in &options.copies {
            let to = folder.join(from.file_name().unwrap_or_default());
            fs::copy(from, to).map_err(Error::io("copying", from))?;
        }
        Ok(())
    })
}

/// The type of a tensor in the files.
fn stored(map: &TensorMap, tensor: &HubTensor, dtype: ExportType) -> Dtype {
    let state = tensor.pieces.iter().any(|piece| map.parameters[piece.parameter].state);
    if dtype == ExportType::Bf16 && !state { Dtype::BF16 } else { Dtype::F32 }
}

/// Bytes of a tensor in the files.
fn bytes(map: &TensorMap, tensor: &HubTensor, dtype: ExportType) -> usize {
    tensor.shape.iter().product::<usize>() * stored(map, tensor, dtype).bitsize() / 8
}

/// The tensors of each file.
fn shards(map: &TensorMap, options: &ExportOptions) -> Vec<Range<usize>> {
    let mut shards: Vec<Range<usize>> = Vec::new();
    let mut size = 0;
    for (i, tensor) in map.tensors.iter().enumerate() {
        let own = bytes(map, tensor, options.dtype) as u64;
        match shards.last_mut() {
            Some(last) if size + own <= options.shard_bytes => {
                (last.end, size) = (i + 1, size + own);
            }
            _ => {
                shards.push(i..i + 1);
                size = own;
            }
        }
    }
    shards
}

/// Writes some tensors to a file; returns their bytes.
fn write_shard(
    path: &Path,
    map: &TensorMap,
    tensors: Range<usize>,
    options: &ExportOptions,
    values: &mut impl FnMut(&Parameter, usize, &mut [f32]) -> Result<()>,
) -> Result<usize> {
    let tensors = &map.tensors[tensors];
    let mut end = 0;
    let infos = tensors.iter().map(|tensor| {
        let start = end;
        end += bytes(map, tensor, options.dtype);
        let dtype = stored(map, tensor, options.dtype);
        (tensor.name.clone(), TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, end) })
    });
    let bad = |message: String| Error::checkpoint(path, message);
    // transformers asks for this entry.
    let entries = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(entries), infos.collect()).map_err(|e| bad(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| bad(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let io = |result: std::io::Result<()>| result.map_err(Error::io("writing", path));
    let file = File::create(path).map_err(Error::io("writing", path))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    io(file.write_all(&(header.len() as u64).to_le_bytes()))?;
    io(file.write_all(&header))?;
    let (mut own, mut turned, mut narrow) = (Vec::new(), Vec::new(), Vec::new());
    for tensor in tensors {
        let dtype = stored(map, tensor, options.dtype);
        for piece in &tensor.pieces {
            let (rows, columns) = (piece.rows, piece.columns);
            own.resize(rows * columns, 0.0f32);
            values(&map.parameters[piece.parameter], piece.offset, &mut own)?;
            let numbers = if piece.transposed {
                turned.resize(rows * columns, 0.0f32);
                transpose(&own, rows, &mut turned, columns, |x| x);
                &turned
            } else {
                &own
            };
            let finite = |x: f32| if dtype == Dtype::BF16 { bf16::from_f32(x).is_finite() } else { x.is_finite() };
            if let Some((i, x)) = numbers.iter().enumerate().find(|(_, x)| !finite(**x)) {
                let at = piece.first + i;
                let name = &tensor.name;
                return Err(bad(format!(
                    "tensor `{name}`: expected finite numbers in {dtype}, got {x} at element {at}"
                )));
            }
            if dtype == Dtype::BF16 {
                narrow.clear();
                narrow.extend(numbers.iter().map(|x| bf16::from_f32(*x).to_bits()));
                io(file.write_all(bytemuck::cast_slice(&narrow)))?;
            } else {
                io(file.write_all(bytemuck::cast_slice(numbers)))?;
            }
        }
    }
    io(file.flush())?;
    Ok(end)
}
