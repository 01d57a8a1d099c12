//! Named tensors in a safetensors file, the same bytes for the same content.
//!
//! The format keeps its metadata in a hash map, whose order changes from run to run; so ours is one entry, `sdmoe`, that
//! holds sorted JSON: `format` and `version` first of all, by which a foreign file is told from ours.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::header::read_header;
use crate::error::{Error, Result};
use crate::files;

/// The one key of the file's own metadata.
const KEY: &str = "sdmoe";
/// Raised when older programs could no longer read the file correctly.
const VERSION: &str = "1";

/// One tensor on its way to a file.
#[derive(Clone, Copy, Debug)]
pub struct TensorToSave<'a> {
    /// Its name, unique in the file.
    pub name: &'a str,
    /// Its shape; the product times the element size is the length of `bytes`.
    pub shape: &'a [usize],
    /// Row-major, little-endian.
    pub bytes: &'a [u8],
    /// Element type.
    pub dtype: Dtype,
}

impl<'a> TensorToSave<'a> {
    /// An f32 tensor, row-major.
    pub fn f32(name: &'a str, shape: &'a [usize], values: &'a [f32]) -> Self {
        Self { name, shape, bytes: bytemuck::cast_slice(values), dtype: Dtype::F32 }
    }

    /// A u32 tensor, row-major.
    pub fn u32(name: &'a str, shape: &'a [usize], values: &'a [u32]) -> Self {
        Self { name, shape, bytes: bytemuck::cast_slice(values), dtype: Dtype::U32 }
    }
}

/// Writes tensors and metadata to `path`; the order in which they are given does not matter.
///
/// # Errors
/// [`Error::Checkpoint`] for a name given twice or a shape that does not fit its bytes, [`Error::Io`] for the disk.
pub fn save_tensors(path: &Path, tensors: &[TensorToSave<'_>], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut sorted = tensors.to_vec();
    sorted.sort_by_key(|t| t.name);
    if let Some(twice) = sorted.windows(2).find(|w| w[0].name == w[1].name) {
        return Err(Error::checkpoint(path, format!("tensor `{}` is given twice", twice[0].name)));
    }
    let mut end = 0;
    let infos = sorted.iter().map(|t| {
        let start = end;
        end += t.bytes.len();
        let info = TensorInfo { dtype: t.dtype, shape: t.shape.to_vec(), data_offsets: (start, end) };
        (t.name.to_owned(), info)
    });
    let mut own = metadata.clone();
    own.insert("format".into(), KEY.into());
    own.insert("version".into(), VERSION.into());
    let bad = |e: String| Error::checkpoint(path, e);
    let own = serde_json::to_string(&own).map_err(|e| bad(e.to_string()))?;
    let header = Metadata::new(Some(HashMap::from([(KEY.to_owned(), own)])), infos.collect());
    let header = header.map_err(|e| bad(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| bad(e.to_string()))?;
    // The format asks for data that starts at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for tensor in &sorted {
            file.write_all(tensor.bytes)?;
        }
        file.flush()
    };
    write().map_err(Error::io("writing", path))
}

/// A file of tensors, read and checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    data_start: usize,
    header: Metadata,
    metadata: BTreeMap<String, String>,
}

/// Reads and checks a file that [`save_tensors`] wrote.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Checkpoint`] when it is truncated, damaged, or not ours.
pub fn load_tensors(path: &Path) -> Result<TensorFile> {
    let bytes = files::read(path)?;
    let (data_start, header) = read_header(path, bytes.len() as u64, &bytes[..])?;
    let entries = own_entries(path, header.metadata().as_ref().unwrap_or(&HashMap::new()))?;
    let message = format!("not a checkpoint of sdmoe: expected metadata `{KEY}`, found none");
    let metadata = entries.ok_or_else(|| Error::checkpoint(path, message))?;
    Ok(TensorFile { path: path.to_owned(), data_start: data_start as usize, bytes, header, metadata })
}

/// The entries that [`save_tensors`] wrote beside the tensors, from a file's whole metadata; `None` where it did not write the file.
///
/// # Errors
/// [`Error::Checkpoint`] when another version of this program wrote it, or it is damaged.
pub(super) fn own_entries(path: &Path, all: &HashMap<String, String>) -> Result<Option<BTreeMap<String, String>>> {
    let foreign = |m: String| Error::checkpoint(path, format!("not a checkpoint of sdmoe: {m}"));
    let Some(own) = all.get(KEY) else { return Ok(None) };
    let metadata: BTreeMap<String, String> = serde_json::from_str(own).map_err(|e| foreign(e.to_string()))?;
    if metadata.get("format").map(String::as_str) != Some(KEY) {
        return Err(foreign(format!("expected format `{KEY}`, got {:?}", metadata.get("format"))));
    }
    match metadata.get("version").map(String::as_str) {
        Some(VERSION) => Ok(Some(metadata)),
        other => Err(Error::checkpoint(
            path,
            format!(
                "expected version {VERSION}, got {}; it belongs to another version of sdmoe",
                other.unwrap_or("none")
            ),
        )),
    }
}

impl TensorFile {
    /// The tensors' names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort();
        names
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// The shape of a tensor, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    /// The entries that were saved beside the tensors, with `format` and `version`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The metadata entry `key`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is missing.
    pub fn entry(&self, key: &str) -> Result<&str> {
        let entry = self.metadata.get(key).map(String::as_str);
        entry.ok_or_else(|| Error::checkpoint(&self.path, format!("expected metadata `{key}`, found none")))
    }

    /// Shape and values of an f32 tensor.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is missing or of another type.
    pub fn get_f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        self.get(name, Dtype::F32, f32::from_le_bytes)
    }

    /// Shape and values of a u32 tensor.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is missing or of another type.
    pub fn get_u32(&self, name: &str) -> Result<(Vec<usize>, Vec<u32>)> {
        self.get(name, Dtype::U32, u32::from_le_bytes)
    }

    /// Values of an f32 tensor that must have `shape`.
    ///
    /// # Errors
    /// As [`TensorFile::get_f32`], and when the shape is another.
    pub fn expect_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (got, values) = self.get_f32(name)?;
        if got != shape {
            let message = format!("tensor `{name}`: expected shape {shape:?}, got {got:?}");
            return Err(Error::checkpoint(&self.path, message));
        }
        Ok(values)
    }

    /// Checks that every number of every f32 tensor is finite.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the first tensor, in the order of the names, that holds another one.
    pub fn require_finite(&self) -> Result<()> {
        for name in self.names() {
            let Some(info) = self.header.info(&name).filter(|info| info.dtype == Dtype::F32) else { continue };
            let (start, end) = info.data_offsets;
            let (words, _) = self.bytes[self.data_start + start..self.data_start + end].as_chunks::<4>();
            let mut numbers = words.iter().map(|w| f32::from_le_bytes(*w)).enumerate();
            if let Some((i, x)) = numbers.find(|(_, x)| !x.is_finite()) {
                let message = format!("tensor `{name}`: expected finite numbers, got {x} at element {i}");
                return Err(Error::checkpoint(&self.path, message));
            }
        }
        Ok(())
    }

    fn get<T>(&self, name: &str, dtype: Dtype, read: fn([u8; 4]) -> T) -> Result<(Vec<usize>, Vec<T>)> {
        let bad = |m: String| Error::checkpoint(&self.path, format!("tensor `{name}`: {m}"));
        let info = self.header.info(name).ok_or_else(|| bad("expected one, found none".into()))?;
        if info.dtype != dtype {
            return Err(bad(format!("expected {dtype}, got {}", info.dtype)));
        }
        let (start, end) = info.data_offsets;
        let (words, _) = self.bytes[self.data_start + start..self.data_start + end].as_chunks::<4>();
        Ok((info.shape.clone(), words.iter().map(|w| read(*w)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> BTreeMap<String, String> {
        ["step", "config", "seed", "alpha", "omega"].iter().map(|k| (k.to_string(), format!("{k}\n\"é\""))).collect()
    }

    fn message(path: &Path) -> String {
        load_tensors(path).unwrap_err().to_string()
    }

    #[test]
    fn tensors_and_metadata_survive_the_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let (w, i) = ([1.5f32, f32::MIN_POSITIVE, -0.0, 3.0, 4.0, 5.0], [7u32, u32::MAX]);
        let tensors = [TensorToSave::f32("w", &[2, 3], &w), TensorToSave::u32("i", &[2], &i)];
        save_tensors(&path, &tensors, &metadata()).unwrap();
        let file = load_tensors(&path).unwrap();
        assert_eq!(file.names(), ["i", "w"]);
        assert_eq!(file.get_f32("w").unwrap(), (vec![2, 3], w.to_vec()));
        assert_eq!(file.get_u32("i").unwrap().1, i);
        assert_eq!(file.entry("config").unwrap(), "config\n\"é\"");
        let wrong = file.expect_f32("w", &[3, 2]).unwrap_err().to_string();
        assert!(wrong.contains("`w`: expected shape [3, 2], got [2, 3]"), "{wrong}");
        assert!(file.get_f32("i").unwrap_err().to_string().contains("expected F32, got U32"));
        assert!(file.get_f32("no").unwrap_err().to_string().contains("found none"));
    }

    #[test]
    fn a_number_that_is_not_finite_is_told_with_its_tensor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (good, bits) = ([f32::MAX, f32::MIN_POSITIVE], [f32::NAN.to_bits()]);
            let w = [1.0, 2.0, bad];
            let tensors = [
                TensorToSave::f32("a", &[2], &good),
                TensorToSave::u32("b", &[1], &bits),
                TensorToSave::f32("w", &[3], &w),
            ];
            save_tensors(&path, &tensors[..2], &metadata()).unwrap();
            load_tensors(&path).unwrap().require_finite().unwrap();
            save_tensors(&path, &tensors, &metadata()).unwrap();
            let message = load_tensors(&path).unwrap().require_finite().unwrap_err().to_string();
            assert!(
                message.ends_with(&format!("tensor `w`: expected finite numbers, got {bad} at element 2")),
                "{message}"
            );
        }
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_in_whatever_order_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..40).map(|i| format!("t{i}")).collect();
        let mut tensors: Vec<_> = names.iter().map(|n| TensorToSave::f32(n, &[1], &[2.0])).collect();
        let mut bytes = Vec::new();
        for i in 0..4 {
            let path = dir.path().join(i.to_string());
            tensors.rotate_left(11);
            save_tensors(&path, &tensors, &metadata()).unwrap();
            bytes.push(std::fs::read(path).unwrap());
        }
        assert!(bytes.windows(2).all(|w| w[0] == w[1]));
        assert_eq!(u64::from_le_bytes(bytes[0][..8].try_into().unwrap()) % 8, 0);
    }

    #[test]
    fn every_truncation_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        save_tensors(&path, &[TensorToSave::f32("w", &[3], &[1.0, 2.0, 3.0])], &metadata()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let message = message(&path);
            // With the length but not one byte of the header there is nothing to recognise it by.
            assert!(message.contains("truncated") || len == 8, "{len}: {message}");
        }
    }

    #[test]
    fn foreign_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        std::fs::write(&path, b"this is a text file, surely").unwrap();
        assert!(message(&path).contains("not a safetensors file"), "{}", message(&path));
        let info = TensorInfo { dtype: Dtype::F32, shape: vec![0], data_offsets: (0, 0) };
        let write = |own: Option<&str>| {
            let own = own.map(|o| HashMap::from([(KEY.to_owned(), o.to_owned())]));
            let header = serde_json::to_vec(&Metadata::new(own, vec![("w".into(), info.clone())]).unwrap()).unwrap();
            std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
            message(&path)
        };
        assert!(write(None).contains("not a checkpoint of sdmoe: expected metadata"));
        assert!(write(Some(r#"{"format":"pt"}"#)).contains("expected format `sdmoe`"));
        let version = write(Some(r#"{"format":"sdmoe","version":"99"}"#));
        assert!(version.contains("expected version 1, got 99"), "{version}");
    }

    #[test]
    fn a_shape_that_does_not_fit_and_a_name_given_twice_are_refused() {
        let path = Path::new("never-written");
        let bad = [TensorToSave::f32("w", &[2], &[1.0])];
        assert!(matches!(save_tensors(path, &bad, &metadata()), Err(Error::Checkpoint { .. })));
        let twice = [TensorToSave::f32("w", &[1], &[1.0]); 2];
        assert!(save_tensors(path, &twice, &metadata()).unwrap_err().to_string().contains("twice"));
        assert!(!path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error() {
        let error = save_tensors(Path::new("/dev/full"), &[], &metadata()).unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
            "{error}"
        );
    }
}
