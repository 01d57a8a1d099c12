//! The head of a safetensors file, and reading parts of its tensors: no file is ever read whole.
//!
//! The format (<https://github.com/huggingface/safetensors#format>): the length of the header as a little-endian `u64`, the
//! header in JSON (name, type, shape and place of each tensor), the data. The places must cover the data without gap or
//! overlap, and the data end where the file ends; so what passes here is neither truncated nor padded.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use super::tensors::own_entries;
use super::widen::{Element, Widener};
use crate::error::{Error, Result};

/// The longest header that the format's own reader takes, bytes.
const MAX_HEADER: u64 = 100_000_000;

/// Reads and checks the head of a file of `length` bytes: where the data start, and what they are.
///
/// # Errors
/// [`Error::Checkpoint`] when the file is truncated, damaged or no safetensors file; [`Error::Io`].
pub(super) fn read_header(path: &Path, length: u64, mut from: impl Read) -> Result<(u64, Metadata)> {
    let bad = |m: String| Error::checkpoint(path, m.replace('\n', " "));
    let mut word = [0; 8];
    if length < 8 {
        return Err(bad(format!("truncated or empty: expected a safetensors header, got {length} bytes")));
    }
    from.read_exact(&mut word).map_err(Error::io("reading", path))?;
    let (wanted, there) = (u64::from_le_bytes(word), length - 8);
    if wanted > there.min(MAX_HEADER) {
        let mut first = [0];
        let json = there > 0 && from.read_exact(&mut first).is_ok() && first == *b"{";
        // A header beyond the file is a truncated one only where the length is believable.
        return Err(bad(if json && wanted <= MAX_HEADER {
            format!("truncated: expected a header of {wanted} bytes, got {there}")
        } else {
            format!("not a safetensors file, or damaged (its first 8 bytes promise a header of {wanted} bytes)")
        }));
    }
    // No longer than the file and the limit.
    let mut text = vec![0; wanted as usize];
    from.read_exact(&mut text).map_err(Error::io("reading", path))?;
    let header: Metadata = serde_json::from_slice(&text)
        .map_err(|e| bad(format!("not a safetensors file, or damaged ({})", blame(&text).unwrap_or(e.to_string()))))?;
    let promised = header.data_len() as u64;
    let data = there - wanted;
    if promised != data {
        let what = if promised > data { "truncated" } else { "damaged" };
        return Err(bad(format!("{what}: expected {promised} bytes of tensors after the header, got {data}")));
    }
    Ok((8 + wanted, header))
}

/// The first tensor, in the order of their places, whose shape and place do not fit each other.
fn blame(header: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Lax {
        #[serde(flatten)]
        tensors: BTreeMap<String, serde_json::Value>,
    }
    let lax: Lax = serde_json::from_slice(header).ok()?;
    let mut infos = Vec::new();
    for (name, info) in lax.tensors.into_iter().filter(|(name, _)| name != "__metadata__") {
        match serde_json::from_value::<TensorInfo>(info) {
            Ok(info) => infos.push((name, info)),
            Err(e) => return Some(format!("tensor `{name}`: {e}")),
        }
    }
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut at = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (start, end) }) in infos {
        let count = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        let bytes = count.and_then(|n| n.checked_mul(dtype.bitsize())).map(|bits| bits.div_ceil(8));
        if start != at || bytes != end.checked_sub(start) {
            let wanted = bytes.map_or("fewer".into(), |b| b.to_string());
            return Some(format!(
                "tensor `{name}`, {dtype} {shape:?}: expected {wanted} bytes from {at} on, got {start} to {end}"
            ));
        }
        at = end;
    }
    None
}

/// A file of tensors of which only the header is in memory.
///
/// It stays open, so that a checkpoint that is replaced meanwhile is read as it was.
#[derive(Debug)]
pub(super) struct TensorTable {
    path: PathBuf,
    file: Mutex<File>,
    data_start: u64,
    header: Metadata,
}

impl TensorTable {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// As [`read_header`].
    pub fn open(path: &Path) -> Result<Self> {
        // Opening what is neither file nor folder may wait for ever.
        let about = std::fs::metadata(path).map_err(Error::io("reading", path))?;
        if !about.is_file() {
            return Err(Error::checkpoint(path, "expected a file of tensors, found something else"));
        }
        let mut file = File::open(path).map_err(Error::io("opening", path))?;
        let length = file.metadata().map_err(Error::io("reading", path))?.len();
        let (data_start, header) = read_header(path, length, &mut file)?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), data_start, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors' names, in the order of their places.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// What this program saved beside the tensors; `None` for a file that others wrote.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it belongs to another version of this program.
    pub fn own_entries(&self) -> Result<Option<BTreeMap<String, String>>> {
        own_entries(&self.path, self.header.metadata().as_ref().unwrap_or(&HashMap::new()))
    }

    /// An error about one tensor.
    pub fn bad(&self, tensor: &str, message: impl std::fmt::Display) -> Error {
        Error::checkpoint(&self.path, format!("tensor `{tensor}`: {message}"))
    }

    /// Reads the elements `first .. first + out.len()` of a tensor, widened to f32.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the tensor has fewer, is of a type that cannot be read, or has an element that is not
    /// finite; [`Error::Io`].
    pub fn read(&self, tensor: &str, first: usize, out: &mut [f32], widener: &mut Widener) -> Result<()> {
        let info = self.info(tensor).ok_or_else(|| self.bad(tensor, "expected one, found none"))?;
        let element = Element::of(info.dtype)
            .ok_or_else(|| self.bad(tensor, format!("expected F32, F16 or BF16, got {}", info.dtype)))?;
        let (start, end) = info.data_offsets;
        let there = (end - start) / element.bytes();
        if first.checked_add(out.len()).is_none_or(|last| last > there) {
            let message = format!("expected {} elements from {first} on, the tensor has {there}", out.len());
            return Err(self.bad(tensor, message));
        }
        let offset = self.data_start + (start + first * element.bytes()) as u64;
        let fill = |bytes: &mut [u8]| self.fill(offset, bytes);
        let finite = widener.widen(element, out, fill).map_err(Error::io("reading", &self.path))?;
        if let Some((i, x)) = (!finite).then(|| out.iter().enumerate().find(|(_, x)| !x.is_finite())).flatten() {
            let mut rest = first + i;
            let mut index: Vec<usize> = Vec::new();
            for size in info.shape.iter().rev() {
                index.insert(0, rest % size);
                rest /= size;
            }
            return Err(self.bad(tensor, format!("expected finite numbers, got {x} at {index:?}")));
        }
        Ok(())
    }

    /// Positioned reading in safe Rust and on every system: one thread at a time, for as long as a copy takes.
    fn fill(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}
