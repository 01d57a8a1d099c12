//! A safetensors file of any origin, of whose tensors parts are read: no file is ever read whole.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::{Metadata, TensorInfo};

use super::foreign::plain_file;
use super::header::read_header;
use super::names::shown;
use super::tensors::own_entries;
use super::widen::{Element, Widener};
use crate::error::{Error, Result};

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

    /// The entries that this program saved beside the tensors; `None` for a file that others wrote.
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
        if self.read_any(tensor, first, out, widener)? {
            return Ok(());
        }
        let Some((i, x)) = out.iter().enumerate().find(|(_, x)| !x.is_finite()) else { return Ok(()) };
        let mut rest = first + i;
        let mut index: Vec<usize> = Vec::new();
        for size in self.info(tensor).iter().flat_map(|info| info.shape.iter().rev()) {
            index.insert(0, rest % size);
            rest /= size;
        }
        Err(self.bad(tensor, format!("expected finite numbers, got {x} at {index:?}")))
    }

    /// As [`TensorTable::read`], but returns whether all elements are finite.
    ///
    /// # Errors
    /// As [`TensorTable::read`], but for those.
    pub fn read_any(&self, tensor: &str, first: usize, out: &mut [f32], widener: &mut Widener) -> Result<bool> {
        let (element, offset) = self.place(tensor, first, out.len())?;
        let fill = |bytes: &mut [u8]| self.fill(offset, bytes);
        widener.widen(element, out, fill).map_err(Error::io("reading", &self.path))
    }

    /// Reads the elements `first .. first + out.len()` of a tensor of a type with 16 bits, as they lie.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the tensor has fewer or is of another type; [`Error::Io`].
    pub fn read_bits(&self, tensor: &str, first: usize, out: &mut [u16]) -> Result<()> {
        let (element, offset) = self.place(tensor, first, out.len())?;
        if element.bytes() != 2 {
            return Err(self.bad(tensor, format!("expected a type with 16 bits, got {element:?}")));
        }
        self.fill(offset, bytemuck::cast_slice_mut(out)).map_err(Error::io("reading", &self.path))
    }

    /// The type of a tensor's elements.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is no such tensor, or it is of a type that cannot be read.
    pub fn element(&self, tensor: &str) -> Result<Element> {
        let info = self.info(tensor).ok_or_else(|| self.bad(tensor, "expected one, found none"))?;
        Element::of(info.dtype)
            .ok_or_else(|| self.bad(tensor, format!("expected F32, F16 or BF16, got {}", info.dtype)))
    }

    /// Type and place in the file of the elements `first .. first + count` of a tensor.
    fn place(&self, tensor: &str, first: usize, count: usize) -> Result<(Element, u64)> {
        let element = self.element(tensor)?;
        let (start, end) = self.info(tensor).map_or((0, 0), |info| info.data_offsets);
        let there = (end - start) / element.bytes();
        if first.checked_add(count).is_none_or(|last| last > there) {
            let message = format!("expected {count} elements from {first} on, the tensor has {there}");
            return Err(self.bad(tensor, message));
        }
        Ok((element, self.data_start + (start + first * element.bytes()) as u64))
    }

    /// Positioned reading in safe Rust and on every system: one thread at a time, for as long as a copy takes.
    fn fill(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}
