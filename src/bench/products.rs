//! Dense products, and the grouped products of experts.

use super::block::{self, WIDTH};
use super::case::{Case, Group, Record};
use super::ceiling::{product_flop, random, random_half};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::grouped::{Groups, NONE, grouped_gemm, grouped_weight_gradient, tile_rows};
use crate::tensor::{DType, Tensor};

/// Multiplications of a product that is measured on GPUs alone, at least.
const LARGE: usize = 1 << 33;

fn letter(trans: Trans) -> char {
    if trans == Trans::N { 'n' } else { 't' }
}

fn name(ta: Trans, tb: Trans, batch: usize, [m, k, n]: [usize; 3]) -> String {
    let times = if batch > 1 { format!("{batch}x") } else { String::new() };
    format!("gemm.{}{}.{times}{m}x{k}x{n}", letter(ta), letter(tb))
}

/// The stored shapes of A, B and C of a batch of products.
pub(super) fn shapes(ta: Trans, tb: Trans, batch: usize, [m, k, n]: [usize; 3]) -> [[usize; 3]; 3] {
    let shape = |t, r, c| if t == Trans::N { [batch, r, c] } else { [batch, c, r] };
    [shape(ta, m, k), shape(tb, k, n), [batch, m, n]]
}

/// Whether a product is too large to be measured on this adapter: it takes seconds without a GPU.
fn too_large(gpu: &Gpu, [m, k, n]: [usize; 3]) -> bool {
    m * n * k >= LARGE && gpu.adapter().is_software()
}

fn dense(ta: Trans, tb: Trans, batch: usize, size: [usize; 3]) -> Case {
    let [m, k, n] = size;
    let make = move |gpu: &Gpu| {
        if too_large(gpu, size) {
            return Ok(None);
        }
        let [a, b, c] = shapes(ta, tb, batch, size).map(|shape| random(gpu, &shape));
        let (a, b, c) = (a?, b?, c?);
        Ok(Some(Box::new(move || gemm(ta, tb, 1.0, &a, &b, 0.0, &c)) as Record))
    };
    Case::where_possible(name(ta, tb, batch, [m, k, n]), make).flop(batch as f64 * product_flop(m, k, n))
}

/// `.f16`: the same product of f16 operands with an f32 result, where shaders have f16; set against that of f32.
fn in_half(ta: Trans, tb: Trans, [m, k, n]: [usize; 3]) -> Case {
    let make = move |gpu: &Gpu| {
        if gpu.require_f16().is_err() || too_large(gpu, [m, k, n]) {
            return Ok(None);
        }
        let half = |t, r, c| random_half(gpu, &if t == Trans::N { [r, c] } else { [c, r] });
        let (a, b, c) = (half(ta, m, k)?, half(tb, k, n)?, random(gpu, &[m, n])?);
        Ok(Some(Box::new(move || gemm(ta, tb, 1.0, &a, &b, 0.0, &c)) as Record))
    };
    let single = name(ta, tb, 1, [m, k, n]);
    Case::where_possible(format!("{single}.f16"), make).flop(product_flop(m, k, n)).dense(single)
}

/// The three forms that a layer needs: forward, input gradient, weight gradient.
const FORMS: [(Trans, Trans); 3] = [(Trans::N, Trans::N), (Trans::N, Trans::T), (Trans::T, Trans::N)];

/// `gemm.*`.
pub(super) fn gemms() -> Group {
    let mut cases = Vec::new();
    for size in [[512; 3], [1024; 3], [4096, 512, 512], [512, 2048, 512]] {
        cases.extend(FORMS.map(|(ta, tb)| dense(ta, tb, 1, size)));
    }
    // Sizes that no tile divides, set against the aligned ones next to them.
    cases.extend(FORMS.map(|(ta, tb)| dense(ta, tb, 1, [511, 513, 509]).dense(name(ta, tb, 1, [512; 3]))));
    cases.push(dense(Trans::T, Trans::T, 1, [512; 3]));
    cases.extend(FORMS.map(|(ta, tb)| in_half(ta, tb, [1024; 3])));
    cases.extend(FORMS.map(|(ta, tb)| dense(ta, tb, 1, [4096; 3])));
    cases.extend(FORMS.map(|(ta, tb)| in_half(ta, tb, [4096; 3])));
    // The narrow products of the gradient split: U^T G, G V, X U.
    cases.push(dense(Trans::T, Trans::N, 8, [8, 512, 512]));
    cases.push(dense(Trans::N, Trans::N, 8, [512, 512, 8]));
    cases.push(dense(Trans::N, Trans::N, 1, [2048, 256, 8]));
    cases
}

/// The groups of experts that have `counts` rows.
pub(super) fn groups(gpu: &Gpu, counts: &[usize]) -> Result<Groups> {
    let tile = tile_rows(gpu);
    let rows = counts.iter().sum();
    let capacity = Groups::capacity(rows, counts.len(), tile);
    let (mut offsets, mut tiles) = (vec![0], Vec::new());
    for (expert, count) in counts.iter().enumerate() {
        tiles.extend(vec![expert as u32; count.div_ceil(tile)]);
        offsets.push((tiles.len() * tile) as u32);
    }
    tiles.resize(capacity / tile, NONE);
    let counts: Vec<u32> = counts.iter().map(|&count| count as u32).collect();
    let tensor = |data: &[u32]| {
        let x = Tensor::persistent(gpu, [data.len()], DType::U32)?;
        x.write_u32(data)?;
        Ok::<_, crate::Error>(x)
    };
    let (tile_expert, offsets, counts) = (tensor(&tiles)?, tensor(&offsets)?, tensor(&counts)?);
    Ok(Groups { experts: counts.numel(), rows, tile_rows: tile, capacity, tile_expert, offsets, counts })
}

/// Rows of each of `experts` experts whose shares are 1, 1/2, 1/3 ..; the first takes what rounding leaves.
fn zipf(rows: usize, experts: usize) -> Vec<usize> {
    let total: f64 = (1..=experts).map(|i| 1.0 / i as f64).sum();
    let mut counts: Vec<usize> = (1..=experts).map(|i| (rows as f64 / total / i as f64) as usize).collect();
    counts[0] += rows - counts.iter().sum::<usize>();
    counts
}

/// The three products of one layer whose experts have `counts` rows.
fn grouped(routing: &str, counts: &[usize], baseline: Option<&str>) -> [Case; 3] {
    let flop = product_flop(counts.iter().sum(), WIDTH, WIDTH);
    let which = ["forward", "dx", "dw"];
    std::array::from_fn(|i| {
        let counts = counts.to_vec();
        let make = move |gpu: &Gpu| {
            let groups = groups(gpu, &counts)?;
            let (x, y) = (random(gpu, &[groups.capacity, WIDTH])?, random(gpu, &[groups.capacity, WIDTH])?);
            let w = random(gpu, &[counts.len(), WIDTH, WIDTH])?;
            Ok(match i {
                0 => Box::new(move || grouped_gemm(&x, &w, Trans::N, &groups, &y)) as Record,
                1 => Box::new(move || grouped_gemm(&x, &w, Trans::T, &groups, &y)),
                _ => Box::new(move || grouped_weight_gradient(&x, &y, &groups, 0.0, &w)),
            })
        };
        let (ta, tb) = FORMS[i];
        let case = Case::new(format!("experts.{}.{routing}", which[i]), make).flop(flop);
        let case = case.dense(name(ta, tb, 1, [4096, 512, 512]));
        match baseline {
            Some(other) => case.against(format!("experts.{}.{other}", which[i]), 1.0),
            None => case,
        }
    })
}

/// `experts.*`: 2048 tokens, width 512; 8 experts top-2 with even and skewed routing, 64 experts top-4 with even
/// routing; and the whole block.
pub(super) fn experts() -> Group {
    let mut cases: Group = FORMS.map(|(ta, tb)| dense(ta, tb, 1, [4096, 512, 512])).into();
    cases.extend(grouped("even", &[512; 8], None));
    cases.extend(grouped("zipf", &zipf(4096, 8), Some("even")));
    cases.extend(grouped("one_pair", &[2048, 0, 0, 2048, 0, 0, 0, 0], Some("even")));
    cases.extend(grouped("e64k4", &[128; 64], None));
    cases.push(block::case().dense(name(Trans::N, Trans::N, 1, [4096, 512, 512])));
    cases
}

#[cfg(test)]
mod tests {
    #[test]
    fn skewed_shares_keep_all_rows() {
        let counts = super::zipf(4096, 8);
        assert_eq!(counts.iter().sum::<usize>(), 4096);
        assert!(counts.is_sorted_by(|a, b| a > b), "{counts:?}");
    }
}
