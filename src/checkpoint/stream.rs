//! Numbers of a checkpoint on their way to parameters, a part at a time: some threads read, widen and transpose, while the
//! thread that asked takes what is ready.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use super::blocks::{band_rows, directly, finite_bf16, transpose, widen_bf16};
use super::table::TensorTable;
use super::widen::Widener;
use crate::error::Result;
use crate::nn::families::{HubTensor, Piece};

/// Numbers that are read at once where nothing is transposed.
const CHUNK: usize = 1 << 17;

/// More threads than this only wait for the memory.
const MAX_THREADS: usize = 4;

/// The most numbers of a part, 128 MiB: a larger matrix is handed over in several. Few matrices of experts are larger.
const MAX_PART: usize = 1 << 25;

/// Fewer numbers than this are read before another thread has started.
const WORTH_A_THREAD: usize = 1 << 18;

/// A part of a tensor that is read as a whole: rows of one of its matrices.
#[derive(Clone, Debug)]
struct Part<'a> {
    file: &'a TensorTable,
    tensor: &'a str,
    piece: Piece,
    rows: Range<usize>,
}

impl Part<'_> {
    fn numel(&self) -> usize {
        self.rows.len() * self.piece.columns
    }

    /// Fills `out` with the part as the parameter has it: `[rows, columns]`, or `[columns, rows]` if it is transposed.
    fn read(&self, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        let columns = self.piece.columns;
        let first = self.piece.first + self.rows.start * columns;
        if !self.piece.transposed || columns == 1 {
            for (i, out) in out.chunks_mut(CHUNK).enumerate() {
                self.file.read(self.tensor, first + i * CHUNK, out, &mut scratch.widener)?;
            }
            return Ok(());
        }
        let (rows, band) = (self.rows.len(), band_rows(columns));
        let direct = directly(self.file.element(self.tensor)?);
        for start in (0..rows).step_by(band) {
            let numel = band.min(rows - start) * columns;
            let first = first + start * columns;
            if direct {
                scratch.bits.resize(scratch.bits.len().max(numel), 0);
                let bits = &mut scratch.bits[..numel];
                self.file.read_bits(self.tensor, first, bits)?;
                if finite_bf16(bits) {
                    transpose(bits, columns, &mut out[start..], rows, widen_bf16);
                    continue;
                }
                // Read once more for the error that says where.
            }
            scratch.band.resize(scratch.band.len().max(numel), 0.0);
            let band = &mut scratch.band[..numel];
            self.file.read(self.tensor, first, band, &mut scratch.widener)?;
            transpose(band, columns, &mut out[start..], rows, |x| x);
        }
        Ok(())
    }

    /// Hands `values`, which [`Part::read`] gave, over in ranges of the parameter.
    fn hand_over(&self, values: &[f32], sink: &mut Sink<'_>) -> Result<()> {
        let Piece { parameter, offset, columns, rows: all, transposed, .. } = self.piece;
        if !transposed {
            return sink(parameter, offset + self.rows.start * columns, values);
        }
        if self.rows.len() == all {
            return sink(parameter, offset, values);
        }
        let rows = values.chunks_exact(self.rows.len()).enumerate();
        rows.into_iter().try_for_each(|(c, row)| sink(parameter, offset + c * all + self.rows.start, row))
    }
}

/// Takes the number of a parameter, the first element of a contiguous range in it, and the range's numbers.
pub(super) type Sink<'a> = dyn FnMut(usize, usize, &[f32]) -> Result<()> + 'a;

/// Buffers of a thread, used again.
#[derive(Default)]
struct Scratch {
    widener: Widener,
    bits: Vec<u16>,
    band: Vec<f32>,
}

/// The parts of a tensor, of at most `most` numbers each but for a row that has more.
fn parts<'a>(file: &'a TensorTable, tensor: &'a HubTensor, most: usize) -> impl Iterator<Item = Part<'a>> {
    tensor.pieces.iter().flat_map(move |piece| {
        // What is not transposed can be cut anywhere.
        let piece =
            if piece.transposed { *piece } else { Piece { rows: piece.rows * piece.columns, columns: 1, ..*piece } };
        let rows = (most / piece.columns.max(1)).max(1);
        let ranges = (0..piece.rows).step_by(rows).map(move |start| start..piece.rows.min(start + rows));
        ranges.map(move |rows| Part { file, tensor: &tensor.name, piece, rows })
    })
}

/// Reads tensors, given in the order of their places, and hands their numbers to `sink`, in any order. Memory: a few parts,
/// of at most 128 MiB each.
///
/// # Errors
/// Those of reading, and those of `sink`.
pub(super) fn stream(tensors: &[(&TensorTable, &HubTensor)], sink: &mut Sink<'_>) -> Result<()> {
    stream_in(tensors, MAX_PART, sink)
}

fn stream_in(tensors: &[(&TensorTable, &HubTensor)], most: usize, sink: &mut Sink<'_>) -> Result<()> {
    let numel: usize = tensors.iter().map(|(_, t)| t.shape.iter().product::<usize>()).sum();
    let worth = (numel / WORTH_A_THREAD).clamp(1, MAX_THREADS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(worth);
    let work = Mutex::new(tensors.iter().flat_map(|(file, tensor)| parts(file, tensor, most)));
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let read = |part: &Part<'_>, mut out: Vec<f32>, scratch: &mut Scratch| {
        out.resize(out.len().max(part.numel()), 0.0);
        part.read(&mut out[..part.numel()], scratch).map(|()| out)
    };
    if threads == 1 {
        let (mut out, mut scratch) = (Vec::new(), Scratch::default());
        while let Some(part) = next() {
            out = read(&part, out, &mut scratch)?;
            part.hand_over(&out[..part.numel()], sink)?;
        }
        return Ok(());
    }
    let free: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());
    let take = || free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
    std::thread::scope(|scope| {
        // A part for each thread, so that none waits for another to be taken.
        let (sender, receiver) = sync_channel(threads);
        for _ in 0..threads {
            let (sender, next, read, take) = (sender.clone(), &next, &read, &take);
            scope.spawn(move || {
                let mut scratch = Scratch::default();
                while let Some(part) = next() {
                    let out = read(&part, take(), &mut scratch);
                    let failed = out.is_err();
                    // Nobody receives any more where something failed.
                    if sender.send((part, out)).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(sender);
        while let Ok((part, out)) = receiver.recv() {
            let out: Vec<f32> = out?;
            part.hand_over(&out[..part.numel()], sink)?;
            free.lock().unwrap_or_else(PoisonError::into_inner).push(out);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tensors::{TensorToSave, save_tensors};
    use super::*;

    #[test]
    fn a_matrix_in_parts_is_the_matrix_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let (rows, columns, numel) = (17, 5, 170);
        let values: Vec<f32> = (0..numel).map(|i| i as f32).collect();
        save_tensors(&path, &[TensorToSave::f32("w", &[2 * rows, columns], &values)], &BTreeMap::new()).unwrap();
        let table = TensorTable::open(&path).unwrap();
        let piece = |parameter, transposed| {
            let first = parameter * rows * columns;
            Piece { first, rows, columns, parameter, offset: 3, transposed }
        };
        let pieces = vec![piece(0, true), piece(1, false)];
        let tensor = HubTensor { name: "w".into(), shape: vec![2 * rows, columns], pieces };
        for most in [1, 5, 12, 25, 84, 85, 1000] {
            let mut got = [[f32::NAN; 88], [f32::NAN; 88]];
            let mut taken = 0;
            stream_in(&[(&table, &tensor)], most, &mut |parameter, first, values| {
                got[parameter][first..first + values.len()].copy_from_slice(values);
                taken += values.len();
                Ok(())
            })
            .unwrap();
            assert_eq!(taken, numel, "{most}");
            for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                assert_eq!(got[0][3 + c * rows + r], values[r * columns + c], "{most}");
                assert_eq!(got[1][3 + r * columns + c], values[(rows + r) * columns + c], "{most}");
            }
        }
    }
}
