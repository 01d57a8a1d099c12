//! The head of a safetensors file, read and checked.
//!
//! The format (<https://github.com/huggingface/safetensors#format>): the length of the header as a little-endian `u64`, the
//! header in JSON (name, type, shape and place of each tensor), the data. The places must cover the data without gap or
//! overlap, and the data end where the file ends; so what passes here is neither truncated nor padded.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::foreign::{START, by_content};
use super::names::shown;
use super::unique::{Unique, for_each};
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
