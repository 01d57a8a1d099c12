//! A look at every number of a checkpoint, once: which are not finite, which experts are zero or equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use super::{Experts, Inspection, Layers, NotFinite};
use crate::checkpoint::experts::ExpertCheckpoint;
use crate::checkpoint::layer::ExpertLayer;
use crate::checkpoint::table::TensorTable;
use crate::checkpoint::target::Target;
use crate::checkpoint::widen::{Element, Widener};
use crate::error::Result;
use crate::nn::config::ExpertMatrix;

/// Numbers that are looked at at once.
const CHUNK: usize = 1 << 17;

/// More threads than this only wait for the memory.
const MAX_THREADS: usize = 4;

/// Hashes of an expert's three matrices.
type Hashes = [[u64; 2]; 3];

/// A row of numbers to look at, and the expert that they belong to: its place among the layers, and its number.
struct Row {
    file: usize,
    tensor: String,
    first: usize,
    numel: usize,
    expert: Option<(usize, usize, usize)>,
}

/// The findings on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    not_finite: usize,
    first: usize,
    zero: bool,
    hash: [u64; 2],
}

/// Looks at every number: at those of experts matrix by matrix, so that experts can be compared.
pub(super) fn look(target: &Target, experts: Option<&ExpertCheckpoint>, found: &mut Inspection) -> Result<()> {
    let mut rows = Vec::new();
    let mut layers = Vec::new();
    let mut of_experts: BTreeSet<&str> = BTreeSet::new();
    for stack in experts.iter().flat_map(|e| e.stacks()) {
        for layer in &stack.layers {
            let (label, experts, numel) = (stack.label(), layer.experts, layer.numel());
            match found.stacks.last_mut() {
                Some(last)
                    if (&last.stack, last.experts, last.d_model, last.d_expert)
                        == (&label, experts, layer.d_model, layer.d_expert) =>
                {
                    last.layers.push(layer.number);
                }
                _ => found.stacks.push(Layers {
                    stack: label.clone(),
                    layers: vec![layer.number],
                    experts,
                    d_model: layer.d_model,
                    d_expert: layer.d_expert,
                }),
            }
            for (matrix, e) in (0..3).flat_map(|m| (0..experts).map(move |e| (m, e))) {
                let place = &layer.places[matrix][e];
                of_experts.insert(&place.tensor);
                let expert = Some((layers.len(), matrix, e));
                rows.push(Row { file: place.file, tensor: place.tensor.clone(), first: place.first, numel, expert });
            }
            layers.push((label, layer));
        }
    }
    for (name, &file) in target.tensors.iter().filter(|(name, _)| !of_experts.contains(name.as_str())) {
        let Some(info) = target.files[file].info(name).filter(|info| Element::of(info.dtype).is_some()) else {
            continue;
        };
        let numel = info.shape.iter().product();
        rows.push(Row { file, tensor: name.clone(), first: 0, numel, expert: None });
    }
    let place = |row: &Row| {
        let start = target.files[row.file].info(&row.tensor).map_or(0, |info| info.data_offsets.0);
        (row.file, start, row.first)
    };
    rows.sort_by_key(place);
    let seen = look_at(target, &rows)?;

    let mut not_finite: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    // The hashes of an expert's three matrices, and whether all are zero.
    let mut all: BTreeMap<(usize, usize), (Hashes, bool)> = BTreeMap::new();
    for (row, seen) in rows.iter().zip(&seen) {
        if seen.not_finite > 0 {
            let (count, first) = not_finite.entry(&row.tensor).or_insert((0, usize::MAX));
            (*count, *first) = (*count + seen.not_finite, seen.first.min(*first));
        }
        if let Some((layer, matrix, e)) = row.expert {
            let (hashes, zero) = all.entry((layer, e)).or_insert(([[0; 2]; 3], true));
            (hashes[matrix], *zero) = (seen.hash, *zero && seen.zero);
        }
    }
    found.not_finite = (not_finite.into_iter())
        .map(|(tensor, (count, first))| NotFinite { tensor: tensor.to_owned(), count, first })
        .collect();
    for (number, (stack, layer)) in layers.iter().enumerate() {
        let some = |experts| Experts { stack: stack.clone(), layer: layer.number, experts };
        let mut zero = Vec::new();
        let mut alike: BTreeMap<Hashes, Vec<usize>> = BTreeMap::new();
        for e in 0..layer.experts {
            match all.get(&(number, e)) {
                Some((_, true)) => zero.push(e),
                Some((hashes, false)) => alike.entry(*hashes).or_default().push(e),
                None => {}
            }
        }
        found.zero_experts.extend((!zero.is_empty()).then(|| some(zero)));
        for group in alike.into_values().filter(|group| group.len() > 1) {
            let mut equal = vec![group[0]];
            for &e in &group[1..] {
                if same(experts, layer, group[0], e) {
                    equal.push(e);
                }
            }
            found.equal_experts.extend((equal.len() > 1).then(|| some(equal)));
        }
    }
    Ok(())
}

/// Whether two experts whose hashes agree are the same to the bit; those with numbers that cannot be compared are not.
fn same(experts: Option<&ExpertCheckpoint>, layer: &ExpertLayer, a: usize, b: usize) -> bool {
    let Some(experts) = experts else { return false };
    ExpertMatrix::ALL.into_iter().all(|matrix| {
        let read = |e| experts.matrix(layer, matrix, e).map(|m| m.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        matches!((read(a), read(b)), (Ok(a), Ok(b)) if a == b)
    })
}

/// Looks at rows in their order, which is that of the disk, with several threads.
fn look_at(target: &Target, rows: &[Row]) -> Result<Vec<Seen>> {
    let numbers: usize = rows.iter().map(|row| row.numel).sum();
    let worth = (numbers / CHUNK).clamp(1, MAX_THREADS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(worth);
    let work = Mutex::new(rows.iter().enumerate());
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        let (mut widener, mut buffer, mut all) = (Widener::default(), vec![0.0; CHUNK.min(numbers)], Vec::new());
        while let Some((i, row)) = next() {
            all.push((i, look_at_row(&target.files[row.file], row, &mut widener, &mut buffer)?));
        }
        Ok(all)
    };
    let results: Vec<Result<Vec<(usize, Seen)>>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let own = run();
        let joined = others.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        std::iter::once(own).chain(joined).collect()
    });
    let mut seen = Vec::with_capacity(rows.len());
    for part in results {
        seen.extend(part?);
    }
    seen.sort_by_key(|(i, _)| *i);
    Ok(seen.into_iter().map(|(_, seen)| seen).collect())
}

fn look_at_row(file: &TensorTable, row: &Row, widener: &mut Widener, buffer: &mut [f32]) -> Result<Seen> {
    let mut seen = Seen { not_finite: 0, first: usize::MAX, zero: true, hash: [0; 2] };
    for start in (0..row.numel).step_by(buffer.len().max(1)) {
        let part = buffer.len().min(row.numel - start);
        let out = &mut buffer[..part];
        let first = row.first + start;
        if !file.read_any(&row.tensor, first, out, widener)? {
            let mut bad = out.iter().enumerate().filter(|(_, x)| !x.is_finite());
            if let Some((i, _)) = bad.next() {
                seen.first = seen.first.min(first + i);
                seen.not_finite += 1 + bad.count();
            }
        }
        seen.zero &= out.iter().fold(true, |all, x| all & (*x == 0.0));
        if row.expert.is_some() {
            let (pairs, rest) = out.as_chunks::<2>();
            let words = pairs.iter().map(|[a, b]| u64::from(a.to_bits()) << 32 | u64::from(b.to_bits()));
            for word in words.chain(rest.iter().map(|x| u64::from(x.to_bits()))) {
                // Two multiplications by odd numbers with high bits brought down in between; equality is checked in the end.
                seen.hash[0] = (seen.hash[0].rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                seen.hash[1] = (seen.hash[1].rotate_left(41) ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93);
            }
        }
    }
    Ok(seen)
}
