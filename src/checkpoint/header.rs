//! The head of a safetensors file, and reading parts of its tensors: no file is ever read whole.
//!
//! The format (<https://github.com/huggingface/safetensors#format>): the length of the header as a little-endian `u64`, the
//! header in JSON (name, type, shape and place of each tensor), the data. The places must cover the data without gap or
//! overlap, and the data end where the file ends; so what passes here is neither truncated nor padded.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::foreign::{START, by_content, plain_file};
use super::names::shown;
use super::tensors::own_entries;
use super::unique::{Unique, for_each};
use super::widen::{Element, Widener};
use crate::error::{Error, Result};

/// The longest header that the format's own reader takes, bytes.
const MAX_HEADER: u64 = 100_000_000;

/// The most dimensions of a tensor: PyTorch's.
const MAX_DIMENSIONS: usize = 64;

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
        let mut start = word.to_vec();
        from.take(START as u64).read_to_end(&mut start).map_err(Error::io("reading", path))?;
        if let Some(what) = by_content(&start) {
            return Err(bad(format!("expected a safetensors file, found {what}")));
        }
        // A header beyond the file is a truncated one only where the length is believable.
        return Err(bad(if start.get(8) == Some(&b'{') && wanted <= MAX_HEADER {
            format!("truncated: expected a header of {wanted} bytes, got {there}")
        } else {
            format!("not a safetensors file, or damaged (its first 8 bytes promise a header of {wanted} bytes)")
        }));
    }
    // No longer than the file and the limit.
    let mut text = vec![0; wanted as usize];
    from.read_exact(&mut text).map_err(Error::io("reading", path))?;
    let header = parse(&text).map_err(|message| {
        let start: Vec<u8> = word.iter().chain(&text).take(START).copied().collect();
        bad(match by_content(&start) {
            Some(what) => format!("expected a safetensors file, found {what}"),
            None => format!("not a safetensors file, or damaged ({message})"),
        })
    })?;
    let promised = header.data_len() as u64;
    let data = there - wanted;
    if promised != data {
        let what = if promised > data { "truncated" } else { "damaged" };
        return Err(bad(format!("{what}: expected {promised} bytes of tensors after the header, got {data}")));
    }
    Ok((8 + wanted, header))
}

/// The header's pairs. The format's own reader keeps the last of two tensors of one name without a word, so they are read
/// here.
#[derive(Default)]
struct Header {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> std::result::Result<Header, M::Error> {
                let mut header = Header::default();
                for_each(map, |name, map| {
                    if name == "__metadata__" {
                        let entries = map.next_value::<Option<Unique<String>>>()?;
                        header.metadata = entries.into_iter().flat_map(|Unique(pairs)| pairs).collect();
                    } else {
                        let info = map
                            .next_value()
                            .map_err(|e| M::Error::custom(format_args!("tensor `{}`: {e}", shown(&name))))?;
                        header.tensors.push((name, info));
                    }
                    Ok(())
                })?;
                Ok(header)
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// The header's content, checked; the error says what is wrong with which tensor.
fn parse(header: &[u8]) -> std::result::Result<Metadata, String> {
    let Header { metadata, mut tensors } = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut at = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (start, end) }) in &tensors {
        let name = shown(name);
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("tensor `{name}`: expected at most {MAX_DIMENSIONS} dimensions, got {}", shape.len()));
        }
        let count = shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
        let bytes = count.and_then(|n| n.checked_mul(dtype.bitsize())).map(|bits| bits.div_ceil(8));
        if *start != at || bytes != end.checked_sub(*start) {
            let wanted = bytes.map_or("fewer".into(), |b| b.to_string());
            return Err(format!(
                "tensor `{name}`, {dtype} {shape:?}: expected {wanted} bytes from {at} on, got {start} to {end}"
            ));
        }
        at = *end;
    }
    Metadata::new(Some(metadata), tensors).map_err(|e| e.to_string())
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
        // Opening what is no plain file may wait for ever.
        plain_file(path)?;
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
        Error::checkpoint(&self.path, format!("tensor `{}`: {message}", shown(tensor)))
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
