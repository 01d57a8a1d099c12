//! From router scores to rows grouped by expert: top-K choice, counts, first rows, and the stable permutation.
//!
//! Token `t` visits `index[t, 0..K]`, the experts of largest `score + bias` in descending order, ties to the lower
//! expert. The pairs `p = t K + j` are counting-sorted by expert, stably, each expert beginning on a tile: pair `p` lies in
//! row `slot[p]`, and row `r` holds pair `source[r]`. All integers, no atomics: the same result on every adapter and
//! however the launches are split. Nothing is read back: the host knows only the capacity, which fits every distribution.

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::kernels::grouped::Groups;
use crate::kernels::rows::group_threads;
use crate::kernels::software::limits;
use crate::tensor::{DType, Tensor};

/// The K experts of each token.
pub static ROUTING_TOPK: Kernel = Kernel::new("routing_topk", wgsl!["routing_topk.wgsl"]).params::<TopkParams>();
/// Ranks and counts within blocks of pairs.
pub static ROUTING_RANK: Kernel = place("routing_rank");
/// Sums over the blocks of a span.
pub static ROUTING_SCAN_BLOCKS: Kernel = place("routing_scan_blocks");
/// Sums over the spans, counts and first rows.
pub static ROUTING_SCAN_EXPERTS: Kernel = place("routing_scan_experts");
/// Experts of the tiles; rows begin empty.
pub static ROUTING_TILES: Kernel = place("routing_tiles");
/// Rows of the pairs and pairs of the rows.
pub static ROUTING_PLACE: Kernel = place("routing_place");
/// Bias balancing.
pub static ROUTING_BIAS: Kernel = Kernel::new("routing_bias", wgsl!["routing_bias.wgsl"]).params::<BiasParams>();
/// Counts of several batches.
pub static SUM_COUNTS: Kernel = Kernel::new("sum_counts", wgsl!["sum_counts.wgsl"]).params::<CountParams>();

const fn place(name: &'static str) -> Kernel {
    Kernel::new(name, wgsl!["routing_place.wgsl"]).params::<PlaceParams>()
}

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 8] = [
        &ROUTING_TOPK,
        &ROUTING_RANK,
        &ROUTING_SCAN_BLOCKS,
        &ROUTING_SCAN_EXPERTS,
        &ROUTING_TILES,
        &ROUTING_PLACE,
        &ROUTING_BIAS,
        &SUM_COUNTS,
    ];
    let variant = |kernel: &'static Kernel| {
        let scans = std::ptr::eq(kernel, &ROUTING_SCAN_EXPERTS);
        let constants = if scans { vec![("WG", f64::from(SCAN_THREADS))] } else { Vec::new() };
        Variant { kernel, constants }
    };
    all.into_iter().map(variant).collect()
}

crate::params! {
    struct TopkParams {
        tokens: u32,
        experts: u32,
        top_k: u32,
        biased: u32,
        /// The range of the K choices that this launch makes; those before it are made.
        first_choice: u32,
        last_choice: u32,
    }
}

crate::params! {
    struct PlaceParams {
        /// Pairs of this launch.
        pairs: u32,
        experts: u32,
        block_pairs: u32,
        span_blocks: u32,
        /// The first pair of this launch.
        first_pair: u32,
        /// The first of the rows bound here.
        first_row: u32,
        /// Number of rows bound here.
        rows: u32,
        tile_rows: u32,
    }
}

crate::params! {
    struct BiasParams { experts: u32, step: f32 }
}

crate::params! {
    struct CountParams { experts: u32, add: u32 }
}

/// The most experts: what the workgroup memory of `routing_scan_experts` holds.
pub const MAX_EXPERTS: usize = 1024;
/// Threads of a workgroup in the kernels of one row, or one workgroup.
const THREADS: u32 = 64;

/// Threads of the one workgroup that scans the spans, each some experts.
const SCAN_THREADS: u32 = 256;

/// The experts of each token, and where each pair of token and expert lies in the grouped layout.
#[derive(Clone, Debug)]
pub struct Routing {
    /// `u32 [T, K]`: experts, by descending score + bias.
    pub index: Tensor,
    /// Which rows belong to which expert.
    pub groups: Groups,
    /// `u32 [T, K]`: row of the pair.
    pub slot: Tensor,
    /// `u32 [capacity]`: pair `t K + j` that the row holds, [`crate::kernels::grouped::NONE`] where it holds none.
    pub source: Tensor,
}

/// Records the routing of `scores: f32 [T, E]`, chosen by `scores + bias` (`bias: f32 [E]`). Equal sums go to the lower
/// expert; NaN counts as less than everything, so K different experts are chosen whatever the scores are.
///
/// # Errors
/// [`Error::Shape`] unless `1 <= top_k <= E <= 1024`, `tile_rows >= 1`, the bias has E elements, and the pairs and rows can
/// be numbered in 32 bits.
pub fn route(scores: &Tensor, bias: Option<&Tensor>, top_k: usize, tile_rows: usize) -> Result<Routing> {
    let (gpu, tokens, experts) = (scores.gpu(), scores.rows(), scores.cols());
    let pairs = tokens * top_k;
    let fits = (1..=experts).contains(&top_k) && experts <= MAX_EXPERTS && tile_rows >= 1;
    if !fits || scores.dtype() != DType::F32 || bias.is_some_and(|b| b.numel() != experts || b.dtype() != DType::F32) {
        let expected = format!("f32 scores [T, E], bias [E], 1 <= K <= E <= {MAX_EXPERTS}, tile_rows >= 1");
        let got = format!("{scores:?}, {bias:?}, K = {top_k}, tile_rows = {tile_rows}");
        return Err(Error::shape("route", expected, got));
    }
    let capacity = Groups::capacity(pairs, experts, tile_rows);
    if capacity >= u32::MAX as usize {
        return Err(Error::shape("route", "fewer than 2^32 rows", format!("{capacity} rows")));
    }
    let groups = Groups {
        experts,
        rows: pairs,
        tile_rows,
        capacity,
        tile_expert: Tensor::empty_u32(gpu, [capacity / tile_rows])?,
        offsets: Tensor::empty_u32(gpu, [experts + 1])?,
        counts: Tensor::empty_u32(gpu, [experts])?,
    };
    let index = Tensor::empty_u32(gpu, [tokens, top_k])?;
    let slot = Tensor::empty_u32(gpu, [tokens, top_k])?;
    let source = Tensor::empty_u32(gpu, [capacity])?;
    if pairs == 0 {
        groups.offsets.clear()?;
        groups.counts.clear()?;
        return Ok(Routing { index, groups, slot, source });
    }
    choose(scores, bias, &index)?;
    group(&index, &groups, &slot, &source)?;
    Ok(Routing { index, groups, slot, source })
}

/// The top-K choice.
fn choose(scores: &Tensor, bias: Option<&Tensor>, index: &Tensor) -> Result<()> {
    let (gpu, experts, top_k) = (scores.gpu(), scores.cols(), index.cols());
    let scores = scores.reshape([scores.rows(), experts])?;
    let threads = group_threads(gpu);
    for range in Parts::new("route", scores.rows()).sliced(gpu, &[experts, top_k]).ranges()? {
        let chunk = scores.slice(range.clone())?;
        for choices in Parts::new("route", top_k).at_most(limits::iterations(gpu) / (experts + 1)).ranges()? {
            let params = TopkParams {
                tokens: range.len() as u32,
                experts: experts as u32,
                top_k: top_k as u32,
                biased: u32::from(bias.is_some()),
                first_choice: choices.start as u32,
                last_choice: choices.end as u32,
            };
            Launch::new(&ROUTING_TOPK)
                .constant("WG", threads)
                .params(&params)
                .read("scores", &chunk)
                // Without a bias nothing is read from here, but something must be bound.
                .read("bias", bias.unwrap_or(&chunk))
                .write("index", &index.slice(range.clone())?)
                .threads(range.len(), threads)
                .run(gpu)?;
        }
    }
    Ok(())
}

/// Pairs of a block, which one thread walks, and blocks of a span: the table of counts, E numbers a block, stays about as
/// large as the list of pairs, and one span's part of it within 64 KiB.
fn block_sizes(experts: usize) -> (usize, usize) {
    let experts = experts.next_power_of_two();
    (experts.clamp(64, 256), (16_384 / experts).clamp(16, 64))
}

/// The counting sort by expert.
fn group(index: &Tensor, groups: &Groups, slot: &Tensor, source: &Tensor) -> Result<()> {
    let (gpu, experts, pairs) = (index.gpu(), groups.experts, index.numel());
    let (index, slot) = (index.reshape([pairs])?, slot.reshape([pairs])?);
    let (block_pairs, span_blocks) = block_sizes(experts);
    let span_pairs = block_pairs * span_blocks;
    let span_count = pairs.div_ceil(span_pairs);
    let rank = Tensor::empty_u32(gpu, [pairs])?;
    let blocks = Tensor::empty_u32(gpu, [pairs.div_ceil(block_pairs), experts])?;
    let spans = Tensor::empty_u32(gpu, [span_count, experts])?;
    let all = PlaceParams {
        pairs: pairs as u32,
        experts: experts as u32,
        block_pairs: block_pairs as u32,
        span_blocks: span_blocks as u32,
        first_pair: 0,
        first_row: 0,
        rows: 0,
        tile_rows: groups.tile_rows as u32,
    };
    // Launches take whole spans. Of each: its pairs, its blocks, and the parameters that name them.
    let span_elements = [span_pairs, span_blocks * experts];
    let pieces = Parts::new("route", span_count).sliced(gpu, &span_elements).ranges()?.map(|range| {
        let own = range.start * span_pairs..pairs.min(range.end * span_pairs);
        let first_block = range.start * span_blocks;
        let own_blocks = first_block..first_block + own.len().div_ceil(block_pairs);
        let params = PlaceParams { pairs: own.len() as u32, first_pair: own.start as u32, ..all };
        (own, own_blocks, params)
    });
    let pieces: Vec<_> = pieces.collect();
    let threads = group_threads(gpu);
    for (own, own_blocks, params) in &pieces {
        let table = blocks.slice(own_blocks.clone())?;
        Launch::new(&ROUTING_RANK)
            .constant("WG", threads)
            .params(params)
            .read("index", &index.slice(own.clone())?)
            .write("rank", &rank.slice(own.clone())?)
            .write("blocks", &table)
            .threads(own_blocks.len(), threads)
            .run(gpu)?;
        Launch::new(&ROUTING_SCAN_BLOCKS)
            .params(params)
            .write("blocks", &table)
            .write("spans", &spans)
            .threads(own_blocks.len().div_ceil(span_blocks) * experts, THREADS)
            .run(gpu)?;
    }
    let scans = span_count * experts.div_ceil(SCAN_THREADS as usize) + experts;
    if scans > limits::iterations(gpu) {
        let expected = format!("at most {} loop iterations a thread, this adapter's limit", limits::iterations(gpu));
        return Err(Error::shape("route", expected, format!("{scans} for {pairs} pairs and {experts} experts")));
    }
    Launch::new(&ROUTING_SCAN_EXPERTS)
        .constant("WG", SCAN_THREADS)
        .params(&all)
        .write("spans", &spans)
        .write("counts", &groups.counts)
        .write("offsets", &groups.offsets)
        .run(gpu)?;
    let tiles: Vec<_> =
        Parts::new("route", groups.capacity / groups.tile_rows).sliced(gpu, &[groups.tile_rows, 1]).ranges()?.collect();
    for range in tiles {
        let rows = range.start * groups.tile_rows..range.end * groups.tile_rows;
        let source = source.slice(rows.clone())?;
        let params = PlaceParams { first_row: rows.start as u32, rows: rows.len() as u32, ..all };
        Launch::new(&ROUTING_TILES)
            .params(&params)
            .write("offsets", &groups.offsets)
            .write("source", &source)
            .write("tile_expert", &groups.tile_expert.slice(range)?)
            .threads(rows.len(), THREADS)
            .run(gpu)?;
        for (own, own_blocks, own_params) in &pieces {
            let params = PlaceParams { first_row: params.first_row, rows: params.rows, ..*own_params };
            Launch::new(&ROUTING_PLACE)
                .params(&params)
                .read("index", &index.slice(own.clone())?)
                .write("rank", &rank.slice(own.clone())?)
                .write("blocks", &blocks.slice(own_blocks.clone())?)
                .write("spans", &spans)
                .write("offsets", &groups.offsets)
                .write("slot", &slot.slice(own.clone())?)
                .write("source", &source)
                .threads(own.len(), THREADS)
                .run(gpu)?;
        }
    }
    Ok(())
}

/// Records `sum = counts`, or `sum += counts` if `add`: `u32 [E]` both.
///
/// # Errors
/// [`Error::Shape`] when the sizes differ.
pub fn sum_counts(counts: &Tensor, add: bool, sum: &Tensor) -> Result<()> {
    if sum.numel() != counts.numel() || sum.dtype() != DType::U32 || counts.dtype() != DType::U32 {
        return Err(Error::shape("sum_counts", "u32 counts [E], u32 sum [E]", format!("{counts:?}, {sum:?}")));
    }
    let params = CountParams { experts: counts.numel() as u32, add: u32::from(add) };
    Launch::new(&SUM_COUNTS).params(&params).read("counts", counts).write("sum", sum).run(counts.gpu())
}

/// Records `bias_e += step * sign(mean(counts) - counts_e)` with `sign(0) = 0`: the loss-free balancing of DeepSeek-V3
/// (arXiv 2412.19437). `bias: f32 [E]`, `counts: u32 [E]`.
///
/// # Errors
/// [`Error::Shape`] when the sizes differ.
pub fn update_bias(bias: &Tensor, counts: &Tensor, step: f32) -> Result<()> {
    if bias.numel() != counts.numel() || bias.dtype() != DType::F32 || counts.dtype() != DType::U32 {
        return Err(Error::shape("update_bias", "f32 bias [E], u32 counts [E]", format!("{bias:?}, {counts:?}")));
    }
    let gpu: &Gpu = bias.gpu();
    let params = BiasParams { experts: bias.numel() as u32, step };
    Launch::new(&ROUTING_BIAS).params(&params).read("counts", counts).write("bias", bias).run(gpu)
}
