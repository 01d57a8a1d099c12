//! Attention to a cache of keys and values: what generation does, a token or a piece of the prompt at a time.
//!
//! By query head h, with the key/value head `h / (heads / kv_heads)`: `y = softmax(scale q k^T) v`, where a query sees the
//! keys up to its own position, or the last `window` of them. Each key and value is read once for up to eight queries and
//! heads; the keys are split over as many workgroups as keep the device busy, whose sums are merged in a fixed order.

use std::ops::Range;

use crate::autograd::Array;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Parts, Tier};
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::kernels::software::limits;
use crate::tensor::{DType, Tensor};

/// The sums over a part of the keys.
pub static CACHED_ATTENTION: PackKernels =
    forms!("cached_attention", "cached_attention.wgsl", CachedAttentionParams, packs);
/// The parts' sums merged.
pub static CACHED_ATTENTION_MERGE: PackKernels =
    forms!("cached_attention_merge", "cached_attention.wgsl", CachedAttentionParams, packs);

crate::params! {
    struct CachedAttentionParams {
        /// New positions.
        rows: u32,
        /// Positions before them.
        past: u32,
        heads: u32,
        kv_heads: u32,
        /// Query heads of a key/value head.
        share: u32,
        /// Packs of a head of q and k.
        width: u32,
        /// Packs of a head of v and y.
        value_width: u32,
        /// The keys of this launch: first, end, the first that is bound.
        first_key: u32,
        end_key: u32,
        bound: u32,
        /// Keys of a part.
        part_keys: u32,
        /// Number of the launch's first part among all.
        first_part: u32,
        /// Parts of this launch, or to be merged.
        parts: u32,
        window: u32,
        /// The factor on scores, in powers of 2.
        scale: f32,
    }
}

/// Rows that a workgroup can take.
const ROWS: [usize; 4] = [1, 2, 4, 8];
/// A window that hides nothing: positions stay below it.
const NO_WINDOW: u32 = 1 << 31;

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    let of = |variant: Variant| {
        ROWS.into_iter().flat_map(move |rows| {
            let constants = variant.constants.clone();
            [Thread::ONE, Thread::MORE].map(|thread| Variant {
                constants: [constants.as_slice(), &[("ROWS", rows as f64)], &thread.constants()].concat(),
                ..variant
            })
        })
    };
    let mut all: Vec<Variant> = variants(&CACHED_ATTENTION).into_iter().flat_map(of).collect();
    all.extend(variants(&CACHED_ATTENTION_MERGE));
    all
}

/// How attention to a cache of keys and values is computed; no gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CachedAttention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head of queries and keys.
    pub k_dim: usize,
    /// Width of a head of values.
    pub v_dim: usize,
    /// The factor on scores; `k_dim^(-1/2)` where there is none.
    pub scale: Option<f32>,
    /// Keys that a query sees, its own and those before it: at least 1, all where there is none.
    pub window: Option<usize>,
}

/// The share of a thread at a time.
#[derive(Clone, Copy)]
struct Thread {
    keys: usize,
    /// Packs of columns.
    columns: usize,
}

impl Thread {
    /// As many threads at work as can be: for GPUs.
    const ONE: Thread = Thread { keys: 1, columns: 1 };
    /// As few loads as can be: software adapters pay for each by its components, whatever cache it comes from.
    const MORE: Thread = Thread { keys: 4, columns: 2 };

    /// Keys of a block.
    fn block(self) -> usize {
        self.keys * THREADS as usize
    }

    fn constants(self) -> [(&'static str, f64); 3] {
        [("STEP", self.keys as f64), ("COLUMNS", self.columns as f64), ("KEYS", self.block() as f64)]
    }
}

/// How the keys are split; a part is a multiple of a block of keys.
struct Split {
    thread: Thread,
    /// Rows of a workgroup.
    rows: usize,
    /// Parts that a device is given at most, by the cache's size and not by what it holds: the buffers do not change.
    most: usize,
    /// Keys of a part at most: what a thread's loops may go through.
    part: usize,
}

impl CachedAttention {
    /// Attention to all keys up to a query's own, with the usual scale.
    pub fn new(heads: usize, kv_heads: usize, k_dim: usize, v_dim: usize) -> Self {
        CachedAttention { heads, kv_heads, k_dim, v_dim, scale: None, window: None }
    }

    /// The queries `q: [n, heads * k_dim]` of the positions `past .. past + n` of one sequence, with the keys
    /// `k: [capacity, kv_heads * k_dim]` and values `v: [capacity, kv_heads * v_dim]`, of which the rows up to `past + n`
    /// hold what belongs to these positions. Gives `[n, heads * v_dim]`, of the inputs' type.
    ///
    /// A caller that steps on, with as many queries and the same cache, makes nothing compile and no new bind group.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shapes do not fit, or `past + n` exceeds the capacity; [`Error::Device`].
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor, past: usize) -> Result<Tensor> {
        self.check(q, k, v, past)?;
        let (gpu, n, capacity) = (q.gpu(), q.rows(), k.rows());
        let y = Tensor::empty(gpu, [n, self.heads * self.v_dim], q.dtype())?;
        if n == 0 {
            return Ok(y);
        }
        let pack = pack(self.k_dim).min(pack(self.v_dim));
        let split = self.split(gpu, n, capacity, pack);
        let widths = [self.kv_heads * self.k_dim, self.kv_heads * self.v_dim];
        let chunks: Vec<_> = Parts::new("cached_attention", capacity).sliced(gpu, &widths).ranges()?.collect();
        let rows = n * self.heads;
        let sums = Tensor::empty_f32(gpu, [split.most + chunks.len(), rows * self.v_dim])?;
        let weights = Tensor::empty_f32(gpu, [split.most + chunks.len(), rows * 2])?;

        let seen = (past + 1).saturating_sub(self.window.unwrap_or(usize::MAX))..past + n;
        let part = seen.len().div_ceil(split.most).next_multiple_of(split.thread.block()).min(split.part);
        let mut params = self.params(n, past, pack);
        params.part_keys = part as u32;
        let tiles = (n * self.heads / self.kv_heads).div_ceil(split.rows) * self.blocks(pack, split.thread);
        for bound in chunks {
            let keys = intersection(&seen, &bound);
            if keys.is_empty() {
                continue;
            }
            params.parts = keys.len().div_ceil(part) as u32;
            (params.first_key, params.end_key, params.bound) = (keys.start as u32, keys.end as u32, bound.start as u32);
            pack_launch(&CACHED_ATTENTION, pack)
                .constant("ROWS", split.rows as u32)
                .constants(split.thread.constants())
                .params(&params)
                .read("q", q)
                .read("k", &k.slice(bound.clone())?)
                .read("v", &v.slice(bound)?)
                .write("sums_out", &sums)
                .write("weights_out", &weights)
                .workgroups(params.parts as usize * self.kv_heads * tiles)
                .run(gpu)?;
            params.first_part += params.parts;
        }
        params.parts = params.first_part;
        pack_launch(&CACHED_ATTENTION_MERGE, pack)
            .params(&params)
            .read("sums", &sums)
            .read("weights", &weights)
            .write("y", &y)
            .threads(rows * self.v_dim / pack, THREADS)
            .run(gpu)?;
        Ok(y)
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor, past: usize) -> Result<()> {
        let CachedAttention { heads, kv_heads, k_dim, v_dim, scale, window } = *self;
        let whole = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads) && k_dim > 0 && v_dim > 0;
        if !whole || window == Some(0) || scale.is_some_and(|scale| !scale.is_finite()) {
            let expected = "kv_heads that divide heads, widths >= 1, window >= 1, a finite scale";
            return Err(Error::shape("cached_attention", expected, format!("{self:?}")));
        }
        let (capacity, n) = (k.rows(), q.rows());
        let filled = past.checked_add(n).is_some_and(|end| end <= capacity && end < NO_WINDOW as usize);
        let alike = q.dtype() == k.dtype() && q.dtype() == v.dtype() && q.dtype() != DType::U32;
        let fits = q.dims() == [n, heads * k_dim]
            && k.dims() == [capacity, kv_heads * k_dim]
            && v.dims() == [capacity, kv_heads * v_dim];
        if !filled || !alike || !fits {
            let expected = format!(
                "q [n, {}], k [capacity, {}] and v [capacity, {}] of one type, past + n <= capacity",
                heads * k_dim,
                kv_heads * k_dim,
                kv_heads * v_dim
            );
            return Err(Error::shape("cached_attention", expected, format!("{q:?}, {k:?}, {v:?}, past {past}")));
        }
        Ok(())
    }

    /// Workgroups that share a row's columns; more than one only where they are scalars and many.
    fn blocks(&self, pack: usize, thread: Thread) -> usize {
        (self.v_dim / pack).div_ceil(THREADS as usize * thread.columns)
    }

    fn split(&self, gpu: &Gpu, n: usize, capacity: usize, pack: usize) -> Split {
        // A software adapter has some cores, a GPU thousands.
        let (thread, busy) = if gpu.tier() == Tier::Software { (Thread::MORE, 16) } else { (Thread::ONE, 512) };
        let own = n * self.heads / self.kv_heads;
        let rows = ROWS.into_iter().find(|&rows| own <= rows).unwrap_or(ROWS[3]);
        let workgroups = own.div_ceil(rows) * self.kv_heads * self.blocks(pack, thread);
        // A key takes a thread an iteration for its value, an eighth for the maximum, and a 64th of a row's for its score;
        // half of the limit, for llvmpipe counts some loops twice.
        let for_a_key = 2 + (self.k_dim / pack + 4).div_ceil(THREADS as usize);
        let block = thread.block();
        let part = (limits::iterations(gpu) / 2 / for_a_key / block).max(1) * block;
        let wanted = (busy / workgroups).clamp(1, capacity.div_ceil(block).max(1));
        Split { thread, rows, most: wanted.max(capacity.div_ceil(part)), part }
    }

    fn params(&self, n: usize, past: usize, pack: usize) -> CachedAttentionParams {
        let scale = self.scale.map_or_else(|| (self.k_dim as f64).sqrt().recip(), f64::from);
        CachedAttentionParams {
            rows: n as u32,
            past: past as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            share: (self.heads / self.kv_heads) as u32,
            width: (self.k_dim / pack) as u32,
            value_width: (self.v_dim / pack) as u32,
            window: self.window.map_or(NO_WINDOW, |window| window.min(NO_WINDOW as usize) as u32),
            scale: (std::f64::consts::LOG2_E * scale) as f32,
            ..Default::default()
        }
    }

    /// Computes it in f64 on the host.
    pub fn reference(&self, q: &Array, k: &Array, v: &Array, past: usize) -> Array {
        let CachedAttention { heads, kv_heads, k_dim, v_dim, .. } = *self;
        let scale = self.scale.map_or_else(|| (k_dim as f64).sqrt().recip(), f64::from);
        let mut y = Array::zeros(&[q.rows(), heads * v_dim]);
        for row in 0..q.rows() {
            for head in 0..heads {
                let kv = head / (heads / kv_heads);
                let query = &q.row(row)[head * k_dim..(head + 1) * k_dim];
                let end = past + row + 1;
                let keys = end.saturating_sub(self.window.unwrap_or(usize::MAX))..end;
                let score = |j: usize| {
                    let key = &k.row(j)[kv * k_dim..(kv + 1) * k_dim];
                    query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * scale
                };
                let scores: Vec<f64> = keys.clone().map(score).collect();
                let maximum = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - maximum).exp()).sum();
                let out = &mut y.row_mut(row)[head * v_dim..(head + 1) * v_dim];
                for (j, s) in keys.zip(&scores) {
                    let p = (s - maximum).exp() / total;
                    out.iter_mut().zip(&v.row(j)[kv * v_dim..(kv + 1) * v_dim]).for_each(|(o, x)| *o += p * x);
                }
            }
        }
        y
    }
}

fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}
