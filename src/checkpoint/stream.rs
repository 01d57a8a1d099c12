//! Numbers of a checkpoint on their way to parameters, a part at a time: some threads read, widen and transpose, while the
//! thread that asked takes what is ready. Numbers of 16 bits stay what they are where the parameter wants them so.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use super::blocks::{band_rows, directly, finite_bits, transpose, widen_bf16};
use super::table::TensorTable;
use super::widen::{Element, Widener};
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
    /// Whether the numbers, of 16 bits, stay as they are.
    bits: bool,
}

impl Part<'_> {
    fn numel(&self) -> usize {
        self.rows.len() * self.piece.columns
    }

    /// Fills `out` with the part as the parameter has it: `[rows, columns]`, or `[columns, rows]` if it is transposed.
    fn read(&self, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        if !self.is_transposed() {
            return self.chunks(out, |first, out| self.file.read(self.tensor, first, out, &mut scratch.widener));
        }
        if directly(self.file.element(self.tensor)?) {
            return self.transpose_bits(out, scratch, widen_bf16);
        }
        for (start, numel) in self.bands() {
            scratch.band.resize(scratch.band.len().max(numel), 0.0);
            let band = &mut scratch.band[..numel];
            self.file.read(self.tensor, self.first() + start * self.piece.columns, band, &mut scratch.widener)?;
            transpose(band, self.piece.columns, &mut out[start..], self.rows.len(), |x| x);
        }
        Ok(())
    }

    /// As [`Part::read`], the numbers as they are.
    fn read_bits(&self, out: &mut [u16], scratch: &mut Scratch) -> Result<()> {
        if self.is_transposed() {
            return self.transpose_bits(out, scratch, |bits| bits);
        }
        let element = self.file.element(self.tensor)?;
        self.chunks(out, |first, out| self.read_finite(element, first, out, &mut scratch.widener))
    }

    /// Calls `read` with the first element of each chunk, and where it goes.
    fn chunks<T>(&self, out: &mut [T], mut read: impl FnMut(usize, &mut [T]) -> Result<()>) -> Result<()> {
        out.chunks_mut(CHUNK).enumerate().try_for_each(|(i, out)| read(self.first() + i * CHUNK, out))
    }

    /// The first row of each band, within the part, and its numbers.
    fn bands(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, columns) = (self.rows.len(), self.piece.columns);
        let band = band_rows(columns);
        (0..rows).step_by(band).map(move |start| (start, band.min(rows - start) * columns))
    }

    /// Reads the bits of a part that is transposed, and writes what `widen` makes of each.
    fn transpose_bits<U>(&self, out: &mut [U], scratch: &mut Scratch, widen: impl Fn(u16) -> U) -> Result<()> {
        let element = self.file.element(self.tensor)?;
        for (start, numel) in self.bands() {
            scratch.bits.resize(scratch.bits.len().max(numel), 0);
            let bits = &mut scratch.bits[..numel];
            self.read_finite(element, self.first() + start * self.piece.columns, bits, &mut scratch.widener)?;
            transpose(bits, self.piece.columns, &mut out[start..], self.rows.len(), &widen);
        }
        Ok(())
    }

    /// Reads numbers from `first` on as they are, which must be finite.
    fn read_finite(&self, element: Element, first: usize, bits: &mut [u16], widener: &mut Widener) -> Result<()> {
        self.file.read_bits(self.tensor, first, bits)?;
        if finite_bits(element, bits) {
            return Ok(());
        }
        // Read once more for the error that says where.
        self.file.read(self.tensor, first, &mut vec![0.0; bits.len()], widener)
    }

    /// The part's first element in the tensor.
    fn first(&self) -> usize {
        self.piece.first + self.rows.start * self.piece.columns
    }

    /// Whether its numbers change their order.
    fn is_transposed(&self) -> bool {
        self.piece.transposed && self.piece.columns > 1
    }

    /// Hands over what was read, in ranges of the parameter.
    fn hand_over<T>(&self, values: &[T], mut sink: impl FnMut(usize, usize, &[T]) -> Result<()>) -> Result<()> {
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

/// Numbers of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Numbers<'a> {
    F32(&'a [f32]),
    /// As they are in the file, of 16 bits.
    Bits(&'a [u16]),
}

/// The numbers of a part, in a buffer that is used again.
#[derive(Default)]
struct Read {
    values: Vec<f32>,
    bits: Vec<u16>,
}

impl Read {
    /// Reads a part.
    fn fill(&mut self, part: &Part<'_>, scratch: &mut Scratch) -> Result<()> {
        let numel = part.numel();
        if part.bits {
            self.bits.resize(self.bits.len().max(numel), 0);
            return part.read_bits(&mut self.bits[..numel], scratch);
        }
        self.values.resize(self.values.len().max(numel), 0.0);
        part.read(&mut self.values[..numel], scratch)
    }

    /// Hands over the part that was read.
    fn hand_over(&self, part: &Part<'_>, sink: &mut Sink<'_>) -> Result<()> {
        let numel = part.numel();
        if part.bits {
            return part.hand_over(&self.bits[..numel], |p, first, bits| sink(p, first, Numbers::Bits(bits)));
        }
        part.hand_over(&self.values[..numel], |p, first, values| sink(p, first, Numbers::F32(values)))
    }
}

/// Takes the number of a parameter, the first element of a contiguous range in it, and the range's numbers.
pub(super) type Sink<'a> = dyn FnMut(usize, usize, Numbers<'_>) -> Result<()> + 'a;

/// Buffers of a thread, used again.
#[derive(Default)]
struct Scratch {
    widener: Widener,
    bits: Vec<u16>,
    band: Vec<f32>,
}

/// The parts of a tensor, of at most `most` numbers each but for a row that has more. `bits` says whether a parameter's numbers, of 16
/// bits, stay as they are.
fn parts<'a>(
    file: &'a TensorTable,
    tensor: &'a HubTensor,
    most: usize,
    bits: &'a (dyn Fn(usize) -> bool + Sync),
) -> impl Iterator<Item = Part<'a>> {
    tensor.pieces.iter().flat_map(move |piece| {
        // What is not transposed can be cut anywhere.
        let piece =
            if piece.transposed { *piece } else { Piece { rows: piece.rows * piece.columns, columns: 1, ..*piece } };
        // In fours where there are as many, so that numbers of 16 bits come in whole words.
        let rows = (most / piece.columns.max(1)).max(1);
        let rows = if rows > 4 { rows / 4 * 4 } else { rows };
        let ranges = (0..piece.rows).step_by(rows).map(move |start| start..piece.rows.min(start + rows));
        let bits = bits(piece.parameter);
        ranges.map(move |rows| Part { file, tensor: &tensor.name, piece, rows, bits })
    })
}

/// Reads tensors, given in the order of their places, and hands their numbers to `sink`, in any order. Memory: a few parts,
/// of at most 128 MiB each. `bits` says whether a parameter's numbers, of 16 bits, stay as they are.
///
/// # Errors
/// Those of reading, and those of `sink`.
pub(super) fn stream(
    tensors: &[(&TensorTable, &HubTensor)],
    bits: &(dyn Fn(usize) -> bool + Sync),
    sink: &mut Sink<'_>,
) -> Result<()> {
    stream_in(tensors, MAX_PART, bits, sink)
}

fn stream_in(
    tensors: &[(&TensorTable, &HubTensor)],
    most: usize,
    bits: &(dyn Fn(usize) -> bool + Sync),
    sink: &mut Sink<'_>,
) -> Result<()> {
    let numel: usize = tensors.iter().map(|(_, t)| t.shape.iter().product::<usize>()).sum();
    let worth = (numel / WORTH_A_THREAD).clamp(1, MAX_THREADS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(worth);
    let work = Mutex::new(tensors.iter().flat_map(|(file, tensor)| parts(file, tensor, most, bits)));
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    if threads == 1 {
        let (mut read, mut scratch) = (Read::default(), Scratch::default());
        while let Some(part) = next() {
            read.fill(&part, &mut scratch)?;
            read.hand_over(&part, sink)?;
        }
        return Ok(());
    }
    let free: Mutex<Vec<Read>> = Mutex::new(Vec::new());
    let take = || free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
    std::thread::scope(|scope| {
        // A part for each thread, so that none waits for another to be taken.
        let (sender, receiver) = sync_channel(threads);
        for _ in 0..threads {
            let (sender, next, take) = (sender.clone(), &next, &take);
            scope.spawn(move || {
                let mut scratch = Scratch::default();
                while let Some(part) = next() {
                    let mut read = take();
                    let read = read.fill(&part, &mut scratch).map(|()| read);
                    let failed = read.is_err();
                    // Nobody receives any more where something failed.
                    if sender.send((part, read)).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(sender);
        while let Ok((part, read)) = receiver.recv() {
            let read: Read = read?;
            read.hand_over(&part, sink)?;
            free.lock().unwrap_or_else(PoisonError::into_inner).push(read);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::Dtype;

    use super::super::tensors::{TensorToSave, save_tensors};
    use super::*;

    #[test]
    fn numbers_of_16_bits_come_as_they_are_and_in_whole_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let (rows, columns, numel) = (20, 12, 480);
        let bits: Vec<u16> = (0..numel).map(|i| 0x3c00 + i as u16).collect();
        let write = |bits: &[u16]| {
            let view =
                safetensors::tensor::TensorView::new(Dtype::BF16, vec![2 * rows, columns], bytemuck::cast_slice(bits));
            safetensors::serialize_to_file([("w", view.unwrap())], None, &path).unwrap();
            TensorTable::open(&path).unwrap()
        };
        let table = write(&bits);
        let piece = |parameter, transposed| {
            let first = parameter * rows * columns;
            Piece { first, rows, columns, parameter, offset: 4, transposed }
        };
        let pieces = vec![piece(0, true), piece(1, false)];
        let tensor = HubTensor { name: "w".into(), shape: vec![2 * rows, columns], pieces };
        for most in [4 * columns, 5 * columns, 100, 1000] {
            let mut got = [[0; 244], [0; 244]];
            stream_in(&[(&table, &tensor)], most, &|_| true, &mut |parameter, first, numbers| {
                let Numbers::Bits(bits) = numbers else { panic!("expected bits, got {numbers:?}") };
                assert!(first.is_multiple_of(2) && bits.len().is_multiple_of(2), "{first}, {}", bits.len());
                got[parameter][first..first + bits.len()].copy_from_slice(bits);
                Ok(())
            })
            .unwrap();
            for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                assert_eq!(got[0][4 + c * rows + r], bits[r * columns + c], "{most}");
                assert_eq!(got[1][4 + r * columns + c], bits[(rows + r) * columns + c], "{most}");
            }
        }
        // One that is not finite is named, in either piece.
        for place in [3 * columns + 7, 35 * columns + 2] {
            let mut damaged = bits.clone();
            damaged[place] = 0x7f80;
            let table = write(&damaged);
            let error =
                stream_in(&[(&table, &tensor)], 1000, &|_| true, &mut |_, _, _| Ok(())).unwrap_err().to_string();
            assert!(error.contains(&format!("got inf at [{}, {}]", place / columns, place % columns)), "{error}");
        }
    }

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
            stream_in(&[(&table, &tensor)], most, &|_| false, &mut |parameter, first, values| {
                let Numbers::F32(values) = values else { panic!("expected f32, got {values:?}") };
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
