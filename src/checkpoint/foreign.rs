//! Words for the thing that lies where a file of tensors was expected: told by the file system, by the first bytes of a file, or
//! by its name. Nothing here waits for a pipe or reads a device.

use std::fs::{self, Metadata};
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// Bytes of a file's start by which [`by_content`] tells it.
pub(super) const START: usize = 1024;

/// Whether a name is taken in its folder, if only by a link that leads nowhere.
pub(super) fn there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Metadata of a plain file.
///
/// # Errors
/// [`Error::Checkpoint`] names what else is there: a folder, a pipe, a device, a link that leads nowhere or in a circle;
/// [`Error::Io`] where nothing is.
pub(super) fn plain_file(path: &Path) -> Result<Metadata> {
    let found = |what: &str| Error::checkpoint(path, format!("expected a file, found {what}"));
    let about = fs::metadata(path).map_err(|e| match files::broken_link(path, &e) {
        Some(link) => found(&link),
        None => Error::io("reading", path)(e),
    })?;
    if about.is_file() { Ok(about) } else { Err(found(files::kind(&about))) }
}

/// The kind of a file that is no safetensors file, by its first bytes.
pub(super) fn by_content(start: &[u8]) -> Option<String> {
    if start.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some(lfs_pointer(start));
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins = |tag: &str| text.get(..tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag.as_bytes()));
    if ["<!doctype html", "<html", "<head", "<body", "<!--"].into_iter().any(begins) {
        return Some("a web page (HTML): the download got it in place of the file".into());
    }
    let known: &[(&[u8], &str)] = &[
        (b"GGUF", "a GGUF file (llama.cpp), which this program does not read; give the model's safetensors"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (TensorFlow, Keras), which this program does not read"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x1f\x8b", "compressed (gzip): unpack it first"),
        (b"\x28\xb5\x2f\xfd", "compressed (Zstandard): unpack it first"),
        (b"<?xml", "an XML text: the download got it in place of the file"),
    ];
    if let Some((_, what)) = known.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some((*what).into());
    }
    const TORCH: &str = "which this program does not read because it may run code; convert it to safetensors";
    if start.starts_with(b"PK\x03\x04") {
        let torch = start.windows(8).any(|w| w == b"data.pkl");
        return Some(if torch {
            format!("a PyTorch file (a zip with a pickle), {TORCH}")
        } else {
            "a zip archive".into()
        });
    }
    // PROTO 2 to 5: the opcode that begins every pickle of a Python of this century; with zeros behind it is the length of a
    // damaged header.
    let pickle = matches!(start, [0x80, 2..=5, ..]) && start.get(4..8) != Some(&[0; 4]);
    pickle.then(|| format!("a Python pickle (an old PyTorch file), {TORCH}"))
}

/// <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>: lines of a key and a value.
fn lfs_pointer(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let size = text.lines().find_map(|l| l.strip_prefix("size ")?.trim().parse::<u64>().ok());
    let size = size.map_or("a file".into(), |n| format!("a file of {n} bytes"));
    format!("a Git LFS pointer that stands for {size}, which was not downloaded: `git lfs pull` fetches it")
}

/// Whose weights a file holds that this program does not read, by the end of its name.
pub(super) fn by_name(name: &str) -> Option<&'static str> {
    let ending = Path::new(name).extension()?.to_str()?.to_ascii_lowercase();
    Some(match ending.as_str() {
        "bin" | "pt" | "pth" | "ckpt" => "PyTorch",
        "gguf" | "ggml" => "GGUF",
        "h5" | "hdf5" | "keras" => "Keras",
        "msgpack" => "Flax",
        "onnx" => "ONNX",
        "npz" | "npy" => "NumPy",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_something_else_are_named_by_their_start() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 12345678901\n";
        for (start, wanted) in [
            (&lfs[..], "a Git LFS pointer that stands for a file of 12345678901 bytes"),
            (&lfs[..60], "a Git LFS pointer that stands for a file, "),
            (b"\n <!DOCTYPE HTML><title>Log in</title>", "a web page"),
            (b"\xef\xbb\xbf<html lang=\"en\">", "a web page"),
            (b"GGUF\x03\0\0\0\x01\0\0\0", "a GGUF file"),
            (b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", "a PyTorch file (a zip"),
            (b"PK\x03\x04\x14\0\0\0\x08\0weights.npy", "a zip archive"),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a Python pickle"),
            (b"\x80\x04\x95", "a Python pickle"),
            (b"\x1f\x8b\x08\0", "compressed"),
        ] {
            let said = by_content(start).unwrap_or_else(|| panic!("{wanted}"));
            assert!(said.starts_with(wanted), "{said}");
        }
        for other in
            [&b""[..], b"a text", b"\x80", b"{}", b"P", &[0; 40], b"version 2 of the model", b"\x80\x02\0\0\0\0\0\0("]
        {
            assert_eq!(by_content(other), None, "{other:?}");
        }
    }
}
