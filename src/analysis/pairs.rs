//! The part that a record keeps of the pairs of a layer's experts.
//!
//! A table of all pairs grows with the square of the experts, and a model has a dozen of them a layer: 58 layers of 256
//! experts would be a gigabyte of JSON. Beyond [`MANY`] experts a record holds each table reduced, to the mean and the
//! largest value of blocks of neighbouring experts and to the largest pairs themselves; tables are reduced when their
//! layer is done, so that no more than one layer's are in memory.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::linalg::statistics::{deviation, mean};

/// A table over experts (or groups), by rows; what is undefined is `None`.
pub type Pairs = Vec<Vec<Option<f64>>>;

/// Experts up to which a record holds all pairs, unless another choice is made, and a page shows them.
pub const MANY: usize = 64;
/// Blocks of a reduced table, a side, at most.
const BLOCKS: usize = 32;
/// Pairs that a reduced table lists.
const LISTED: usize = 16;
/// Significant digits of what is reduced: products of f32 have no more than seven, a map shows two.
const DIGITS: usize = 4;

/// How much of the pairs of experts a record keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All pairs, and each expert's curves.
    Full,
    /// Blocks and the largest pairs; of the experts' curves the median or the mean.
    Top,
    /// Mean, spread and largest of all pairs; of the experts' curves the median or the mean.
    None,
}

impl Detail {
    /// Returns what is kept where nothing else is said.
    pub fn of_experts(experts: usize) -> Self {
        if experts > MANY { Detail::Top } else { Detail::Full }
    }
}

/// The meaning of the diagonal of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Diagonal {
    /// An expert beside itself, which says nothing.
    Trivial,
    /// Pairs as others: a router vector and its own expert.
    Counts,
}

/// The pairs of a layer's experts, whole or reduced. As a slice of rows it is the whole table, and empty where that is
/// reduced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeptPairs {
    /// Experts by experts (samples by samples for activations).
    Whole(Pairs),
    /// The maps and the largest pairs that stand for a larger table.
    Reduced(Reduced),
}

/// A table of pairs, reduced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reduced {
    /// Rows and columns of the whole table.
    pub size: usize,
    /// Mean of all defined pairs.
    pub mean: Option<f64>,
    /// Their standard deviation, where (a, b) and (b, a) are the same counted once; none of less than two.
    #[serde(default)]
    pub spread: Option<f64>,
    /// The largest of them.
    pub largest: Option<f64>,
    /// Rows and columns of one block; 0 where there are no blocks.
    pub block: usize,
    /// Whether pairs (a, b) and (b, a) are the same: a row of blocks then starts at the diagonal.
    pub half: bool,
    /// The mean of the defined pairs of each block, by rows.
    pub block_mean: Pairs,
    /// The largest of each block.
    pub block_largest: Pairs,
    /// The largest pairs: row, column, value; falling.
    pub top: Vec<(usize, usize, f64)>,
}

impl Default for KeptPairs {
    fn default() -> Self {
        Self::Whole(Pairs::new())
    }
}

impl From<Pairs> for KeptPairs {
    fn from(table: Pairs) -> Self {
        Self::Whole(table)
    }
}

impl Deref for KeptPairs {
    type Target = Pairs;

    fn deref(&self) -> &Pairs {
        static NONE: Pairs = Pairs::new();
        match self {
            KeptPairs::Whole(table) => table,
            KeptPairs::Reduced(_) => &NONE,
        }
    }
}

impl KeptPairs {
    /// Keeps no more than `detail` says.
    pub(crate) fn keep(&mut self, detail: Detail, diagonal: Diagonal) {
        if let (KeptPairs::Whole(table), Detail::Top | Detail::None) = (&*self, detail) {
            *self = KeptPairs::Reduced(Reduced::new(table, diagonal, detail));
        }
    }

    /// The table reduced, as it is or as [`Detail::Top`] keeps it.
    pub(crate) fn reduced(&self, diagonal: Diagonal) -> Reduced {
        match self {
            KeptPairs::Whole(table) => Reduced::new(table, diagonal, Detail::Top),
            KeptPairs::Reduced(reduced) => reduced.clone(),
        }
    }

    /// The experts of the whole table.
    pub fn size(&self) -> usize {
        match self {
            KeptPairs::Whole(table) => table.len(),
            KeptPairs::Reduced(reduced) => reduced.size,
        }
    }

    /// Mean over the defined pairs of different experts; of a reduced table as it was kept.
    pub fn mean(&self) -> Option<f64> {
        match self {
            KeptPairs::Whole(table) => mean(pairs(table, Diagonal::Trivial).map(|p| p.2)),
            KeptPairs::Reduced(reduced) => reduced.mean,
        }
    }

    /// Their standard deviation, each pair counted once; none of less than two.
    pub fn spread(&self) -> Option<f64> {
        match self {
            KeptPairs::Whole(table) => spread(table),
            KeptPairs::Reduced(reduced) => reduced.spread,
        }
    }

    /// The largest of them.
    pub fn largest(&self) -> Option<f64> {
        match self {
            KeptPairs::Whole(table) => pairs(table, Diagonal::Trivial).map(|p| p.2).reduce(f64::max),
            KeptPairs::Reduced(reduced) => reduced.largest,
        }
    }
}

impl Reduced {
    fn new(table: &Pairs, diagonal: Diagonal, detail: Detail) -> Self {
        let off = || pairs(table, Diagonal::Trivial).map(|p| p.2);
        let whole = Self {
            size: table.len(),
            mean: mean(off()),
            spread: spread(table),
            largest: off().reduce(f64::max),
            ..Self::default()
        };
        if detail == Detail::None || table.is_empty() {
            return whole;
        }
        let half = is_symmetric(table);
        let block = table.len().div_ceil(BLOCKS);
        let side = table.len().div_ceil(block);
        let mut found = vec![vec![(0.0, 0u32, f64::MIN); side]; side];
        for (i, j, x) in pairs(table, diagonal) {
            let cell: &mut (f64, u32, f64) = &mut found[i / block][j / block];
            *cell = (cell.0 + x, cell.1 + 1, cell.2.max(x));
        }
        let by_block = |f: fn(&(f64, u32, f64)) -> f64| {
            let row = |(i, row): (usize, &Vec<(f64, u32, f64)>)| {
                let from = if half { i } else { 0 };
                row[from..].iter().map(|cell| (cell.1 > 0).then(|| rounded(f(cell), DIGITS))).collect()
            };
            found.iter().enumerate().map(row).collect()
        };
        Self {
            block,
            half,
            block_mean: by_block(|cell| cell.0 / f64::from(cell.1)),
            block_largest: by_block(|cell| cell.2),
            top: largest(table, diagonal, half),
            ..whole
        }
    }
}

/// The defined pairs: row, column, value.
fn pairs(table: &Pairs, diagonal: Diagonal) -> impl Iterator<Item = (usize, usize, f64)> + '_ {
    table.iter().enumerate().flat_map(move |(i, row)| {
        let cells = row.iter().enumerate().filter(move |(j, _)| diagonal == Diagonal::Counts || i != *j);
        cells.filter_map(move |(j, x)| Some((i, j, x.filter(|x| x.is_finite())?)))
    })
}

/// Standard deviation of the defined pairs of different experts; of a symmetric table each once.
fn spread(table: &Pairs) -> Option<f64> {
    let half = is_symmetric(table);
    let once: Vec<f64> =
        pairs(table, Diagonal::Trivial).filter(|(i, j, _)| !half || i < j).map(|(_, _, x)| x).collect();
    deviation(&once)
}

fn is_symmetric(table: &Pairs) -> bool {
    // Rounding of products may differ between the halves.
    let same = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()),
        (a, b) => a.is_none() == b.is_none(),
    };
    let at = |i: usize, j: usize| table[i].get(j).copied().flatten().filter(|x| x.is_finite());
    (0..table.len()).all(|i| (0..i).all(|j| same(at(i, j), at(j, i))))
}

/// The largest pairs, the first of equals first; of a symmetric table each once.
fn largest(table: &Pairs, diagonal: Diagonal, half: bool) -> Vec<(usize, usize, f64)> {
    let mut top: Vec<(usize, usize, f64)> = Vec::with_capacity(LISTED + 1);
    for (i, j, x) in pairs(table, diagonal).filter(|(i, j, _)| !half || i <= j) {
        if top.len() < LISTED || top.last().is_some_and(|last| x > last.2) {
            let place = top.partition_point(|other| other.2 >= x);
            top.insert(place, (i, j, x));
            top.truncate(LISTED);
        }
    }
    top.into_iter().map(|(i, j, x)| (i, j, rounded(x, DIGITS + 2))).collect()
}

/// `x` with so many significant digits.
pub(super) fn rounded(x: f64, digits: usize) -> f64 {
    format!("{x:.*e}", digits - 1).parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of which each cell says where it is.
    fn table(n: usize, symmetric: bool) -> Pairs {
        let at = |i: usize, j: usize| if symmetric { (i.min(j), i.max(j)) } else { (i, j) };
        (0..n)
            .map(|i| (0..n).map(|j| Some(((at(i, j).0 * 7 + at(i, j).1 * 13) % 101) as f64 / 101.0)).collect())
            .collect()
    }

    #[test]
    fn blocks_hold_the_mean_and_the_largest_of_their_pairs() {
        for (n, symmetric) in [(1, true), (65, true), (70, false), (1000, true), (256, false)] {
            let whole = table(n, symmetric);
            let mut kept = KeptPairs::from(whole.clone());
            kept.keep(Detail::Top, Diagonal::Trivial);
            let KeptPairs::Reduced(r) = &kept else { panic!("{kept:?}") };
            assert!(r.block_mean.len() <= BLOCKS && r.block * r.block_mean.len() >= n, "{n}: {r:?}");
            assert_eq!((r.size, kept.size(), r.half), (n, n, symmetric));
            for (i, row) in r.block_mean.iter().enumerate() {
                for (j, mean) in row.iter().enumerate() {
                    let j = if r.half { i + j } else { j };
                    let range = |b: usize| b * r.block..n.min((b + 1) * r.block);
                    let cells: Vec<f64> = range(i)
                        .flat_map(|a| range(j).map(move |b| (a, b)))
                        .filter(|(a, b)| a != b)
                        .map(|(a, b)| whole[a][b].unwrap())
                        .collect();
                    let expected = (!cells.is_empty()).then(|| cells.iter().sum::<f64>() / cells.len() as f64);
                    let most = cells.iter().copied().reduce(f64::max);
                    let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
                        (Some(a), Some(b)) => (a - b).abs() <= 1e-3 * b.abs(),
                        (a, b) => a == b,
                    };
                    assert!(near(*mean, expected), "{n}: block {i} {j}: {mean:?} for {expected:?}");
                    let largest = r.block_largest[i][if r.half { j - i } else { j }];
                    assert!(near(largest, most), "{n}: block {i} {j}: {largest:?} for {most:?}");
                }
            }
            let mut all: Vec<f64> =
                pairs(&whole, Diagonal::Trivial).filter(|p| !symmetric || p.0 < p.1).map(|p| p.2).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            all.truncate(LISTED);
            let listed: Vec<f64> = r.top.iter().map(|t| t.2).collect();
            assert!(
                listed.len() == all.len() && listed.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-5),
                "{n}: {listed:?}"
            );
            assert!(r.top.iter().all(|&(i, j, x)| (whole[i][j].unwrap() - x).abs() < 1e-5 && i != j));
            let all = KeptPairs::from(whole);
            assert_eq!((kept.mean(), kept.spread(), kept.largest()), (all.mean(), all.spread(), all.largest()));
        }
    }

    #[test]
    fn what_is_undefined_stays_out_of_blocks() {
        let mut whole = table(66, true);
        // From 6 on a whole block.
        for (expert, x) in [(5, Some(f64::NAN)), (4, None), (6, None), (7, None), (8, None)] {
            for (a, b) in (0..66).flat_map(|e| [(e, expert), (expert, e)]) {
                whole[a][b] = x;
            }
        }
        let mut kept = KeptPairs::from(whole);
        kept.keep(Detail::Top, Diagonal::Trivial);
        let KeptPairs::Reduced(r) = &kept else { panic!("{kept:?}") };
        assert_eq!((r.block, r.block_mean[2][1], r.block_mean[0][0].is_some()), (3, None, true));
        assert!(r.block_mean[1][2].is_some() && r.mean.is_some_and(f64::is_finite));
        assert!(r.top.iter().all(|&(i, j, _)| !(4..9).contains(&i) && !(4..9).contains(&j)));
    }

    #[test]
    fn no_more_is_kept_than_asked_for_and_all_of_it_reads_back() {
        let sizes = [Detail::Full, Detail::Top, Detail::None].map(|detail| {
            let mut kept = KeptPairs::from(table(256, true));
            kept.keep(detail, Diagonal::Counts);
            let text = serde_json::to_string(&kept).unwrap();
            assert_eq!(serde_json::from_str::<KeptPairs>(&text).unwrap(), kept);
            assert_eq!(kept.is_empty(), detail != Detail::Full);
            text.len()
        });
        assert!(sizes[0] > 1 << 20 && sizes[1] < 12 << 10 && sizes[2] < 256, "{sizes:?}");
        assert_eq!(serde_json::from_str::<KeptPairs>("[[1.0,null],[null,1.0]]").unwrap()[0], [Some(1.0), None]);
    }
}
