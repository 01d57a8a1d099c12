//! The choices of each token as a table: a line for each token and layer.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

/// The first columns; those of the experts and of their weights follow.
const START: &str = "sequence,offset,token,layer,expert_1";

/// Refuses a path where no trace can be written: a folder, a device, a file that is none of this program's traces, or a
/// folder that does not exist or is not writable.
///
/// # Errors
/// [`Error::Io`].
pub fn check(path: &Path) -> Result<()> {
    let refused =
        |message: String| Err(Error::io("writing", path)(std::io::Error::new(ErrorKind::InvalidInput, message)));
    match fs::metadata(path) {
        Ok(about) if !about.is_file() => return refused(format!("expected a file, found {}", files::kind(&about))),
        Ok(_) => {
            let mut start = Vec::new();
            let file = File::open(path).map_err(Error::io("reading", path))?;
            file.take(START.len() as u64).read_to_end(&mut start).map_err(Error::io("reading", path))?;
            if !start.is_empty() && start != START.as_bytes() {
                return refused("holds something else than a trace of this program; choose another file".into());
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("writing", path)(e)),
    }
    files::replaceable(path).map_err(Error::io("writing", path))
}

/// The choices of a text's tokens in one layer.
#[derive(Clone, Debug)]
pub struct LayerChoices {
    /// The layer's number.
    pub layer: usize,
    /// Chosen experts, `[tokens, K]`.
    pub index: Vec<u32>,
    /// Their combine weights, `[tokens, K]`.
    pub weight: Vec<f32>,
}

/// Writes the table of `layers`, of whose experts a token visits `k`, of the tokens `tokens` in sequences of `seq`: the
/// number of the sequence, the token's place in it from 0, its number in the vocabulary, the layer, its experts in the
/// order of the choice, and their weights.
///
/// # Errors
/// [`Error::Io`]; what was at `path` is then as before.
pub fn write(path: &Path, layers: &[LayerChoices], k: usize, tokens: &[u32], seq: usize) -> Result<()> {
    let table = |file: &mut dyn Write| {
        let mut out = BufWriter::new(file);
        out.write_all(START.as_bytes())?;
        (2..=k).try_for_each(|j| write!(out, ",expert_{j}"))?;
        (1..=k).try_for_each(|j| write!(out, ",weight_{j}"))?;
        for (t, token) in tokens.iter().enumerate() {
            for LayerChoices { layer, index, weight } in layers {
                write!(out, "\n{},{},{token},{layer}", t / seq, t % seq)?;
                index[t * k..(t + 1) * k].iter().try_for_each(|expert| write!(out, ",{expert}"))?;
                weight[t * k..(t + 1) * k].iter().try_for_each(|weight| write!(out, ",{weight}"))?;
            }
        }
        out.write_all(b"\n")?;
        out.flush()
    };
    files::replace_with(path, table).map_err(Error::io("writing", path))
}
