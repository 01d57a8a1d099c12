//! Attention's kernels, their choice and their launches, split by sequences where a batch exceeds one binding.

use std::ops::Range;

use super::Attention;
use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::{Tensor, row_chunks};

macro_rules! subgroup_kernel {
    ($entry:literal, $file:literal) => {
        Kernel {
            name: $entry,
            sources: &[
                include_str!("../../../shaders/lib/grid.wgsl"),
                include_str!("../../../shaders/lib/attention_tile.wgsl"),
                include_str!(concat!("../../../shaders/", $file)),
            ],
            entry: $entry,
            constants: &[],
        }
    };
}

macro_rules! tiled_kernel {
    ($entry:literal) => {
        Kernel {
            name: $entry,
            sources: &[
                include_str!("../../../shaders/lib/grid.wgsl"),
                include_str!("../../../shaders/attention_tiled.wgsl"),
            ],
            entry: $entry,
            constants: &[],
        }
    };
}

/// The forward in registers, for subgroups of 8 lanes or more and a head_dim that is a multiple of 4.
pub static ATTENTION_SUBGROUP: Kernel = subgroup_kernel!("attention_subgroup", "attention_subgroup.wgsl");
/// The gradient in the queries, likewise.
pub static ATTENTION_DQ_SUBGROUP: Kernel = subgroup_kernel!("attention_dq_subgroup", "attention_dq_subgroup.wgsl");
/// The gradients in keys and values, likewise.
pub static ATTENTION_DKV_SUBGROUP: Kernel = subgroup_kernel!("attention_dkv_subgroup", "attention_dkv_subgroup.wgsl");
/// The forward through workgroup memory.
pub static ATTENTION_TILED: Kernel = tiled_kernel!("attention_tiled");
/// The gradient in the queries through workgroup memory.
pub static ATTENTION_DQ_TILED: Kernel = tiled_kernel!("attention_dq_tiled");
/// The gradients in keys and values through workgroup memory.
pub static ATTENTION_DKV_TILED: Kernel = tiled_kernel!("attention_dkv_tiled");
/// `rowsum(dy y)` by head.
pub static ATTENTION_DELTA: PackKernels = forms!("attention_delta", "attention_delta.wgsl", packs);

crate::params! {
    struct SubgroupParams {
        sequences: u32, seq: u32, heads: u32, kv_heads: u32, width: u32, scale: f32, scale_out: f32, beta: f32,
    }
}
crate::params! {
    struct TiledParams {
        sequences: u32, seq: u32, heads: u32, kv_heads: u32, head_dim: u32, scale: f32, scale_out: f32, beta: f32,
    }
}
crate::params! {
    struct DeltaParams { count: u32, width: u32 }
}

/// The tensors that both backward kernels read.
pub(super) struct Operands<'a> {
    pub(super) q: &'a Tensor,
    pub(super) k: &'a Tensor,
    pub(super) v: &'a Tensor,
    pub(super) dy: &'a Tensor,
    pub(super) lse: &'a Tensor,
    pub(super) delta: &'a Tensor,
}

/// Passing rows and widths of the tiled kernels, by head_dim: workgroup memory of at most 16 KiB.
const TILES: [(u32, u32, u32); 4] = [(16, 8, 16), (16, 8, 32), (16, 8, 64), (8, 4, 128)];
/// Smallest subgroup that the subgroup kernels run on, and the one whose variants are listed.
const LANES: u32 = 8;

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    let mut all = variants(&ATTENTION_DELTA);
    for kernel in [&ATTENTION_SUBGROUP, &ATTENTION_DQ_SUBGROUP, &ATTENTION_DKV_SUBGROUP] {
        all.push(Variant { kernel, constants: vec![("SG", f64::from(LANES))] });
    }
    for kernel in [&ATTENTION_TILED, &ATTENTION_DQ_TILED, &ATTENTION_DKV_TILED] {
        for (rows, passing, width) in TILES {
            let constants =
                vec![("ROWS", f64::from(rows)), ("PASSING", f64::from(passing)), ("WIDTH", f64::from(width))];
            all.push(Variant { kernel, constants });
        }
    }
    all
}

/// Which kernels to use.
enum Form {
    /// With this many lanes.
    Subgroup(u32),
    /// With these constants.
    Tiled { rows: u32, passing: u32, width: u32 },
}

impl Form {
    fn of(op: &Attention, gpu: &Gpu) -> Self {
        let lanes = gpu.adapter().subgroup_size.0;
        if gpu.tier() == Tier::Subgroup && lanes >= LANES && op.head_dim.is_multiple_of(4) {
            return Form::Subgroup(lanes);
        }
        let (rows, passing, width) =
            TILES.into_iter().find(|tile| tile.2 as usize >= op.head_dim).unwrap_or(TILES[TILES.len() - 1]);
        Form::Tiled { rows, passing, width }
    }

    /// A launch over all tiles of `heads` heads in `sequences` sequences.
    fn launch<'a>(
        &self,
        op: &Attention,
        subgroup: &'static Kernel,
        tiled: &'static Kernel,
        heads: usize,
        sequences: usize,
    ) -> Launch<'a> {
        let heads = heads * sequences;
        match *self {
            Form::Subgroup(lanes) => {
                let blocks = op.head_dim.div_ceil(32);
                let tiles = op.seq.div_ceil(4 * lanes as usize);
                Launch::new(subgroup).constant("SG", lanes).workgroups(heads * tiles * blocks)
            }
            Form::Tiled { rows, passing, width } => Launch::new(tiled)
                .constant("ROWS", rows)
                .constant("PASSING", passing)
                .constant("WIDTH", width)
                .workgroups(heads * op.seq.div_ceil(rows as usize)),
        }
    }
}

impl Attention {
    fn scale_out(&self) -> f32 {
        (self.head_dim as f64).sqrt().recip() as f32
    }

    fn scale(&self) -> f32 {
        (std::f64::consts::LOG2_E / (self.head_dim as f64).sqrt()) as f32
    }

    fn subgroup_params(&self, sequences: usize, beta: f32) -> SubgroupParams {
        SubgroupParams {
            sequences: sequences as u32,
            seq: self.seq as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            width: (self.head_dim / 4) as u32,
            scale: self.scale(),
            scale_out: self.scale_out(),
            beta,
        }
    }

    fn tiled_params(&self, sequences: usize, beta: f32) -> TiledParams {
        TiledParams {
            sequences: sequences as u32,
            seq: self.seq as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            head_dim: self.head_dim as u32,
            scale: self.scale(),
            scale_out: self.scale_out(),
            beta,
        }
    }

    /// Ranges of rows of whole sequences that fit one binding.
    fn chunks(&self, x: &Tensor) -> Result<impl Iterator<Item = Range<usize>> + use<>> {
        let seq = self.seq;
        let row = |heads: usize| seq * heads * self.head_dim;
        let elements = [row(self.heads), row(self.kv_heads), seq * self.heads];
        let chunks = row_chunks(x.gpu(), "attention", x.rows() / seq, &elements)?;
        Ok(chunks.map(move |range| range.start * seq..range.end * seq))
    }
}

/// `x` as rows, cut.
fn cut(x: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    x.reshape([x.rows(), x.cols()])?.slice(range.clone())
}

pub(super) fn forward(op: &Attention, q: &Tensor, k: &Tensor, v: &Tensor, y: &Tensor, lse: &Tensor) -> Result<()> {
    let form = Form::of(op, q.gpu());
    for rows in op.chunks(q)? {
        let sequences = rows.len() / op.seq;
        let launch = form
            .launch(op, &ATTENTION_SUBGROUP, &ATTENTION_TILED, op.heads, sequences)
            .read("q", &cut(q, &rows)?)
            .read("k", &cut(k, &rows)?)
            .read("v", &cut(v, &rows)?);
        let (y, lse) = (cut(y, &rows)?, cut(lse, &rows)?);
        if let Form::Subgroup(_) = form {
            let params = op.subgroup_params(sequences, 0.0);
            launch.params(&params).write("y", &y).write("lse", &lse).run(q.gpu())?;
        } else {
            let params = op.tiled_params(sequences, 0.0);
            launch.params(&params).write("out_a", &y).write("out_b", &lse).run(q.gpu())?;
        }
    }
    Ok(())
}

pub(super) fn delta(op: &Attention, y: &Tensor, dy: &Tensor, delta: &Tensor) -> Result<()> {
    let pack = pack(op.head_dim);
    for rows in op.chunks(y)? {
        let count = rows.len() * op.heads;
        let params = DeltaParams { count: count as u32, width: (op.head_dim / pack) as u32 };
        pack_launch(&ATTENTION_DELTA, pack)
            .params(&params)
            .read("y", &cut(y, &rows)?)
            .read("dy", &cut(dy, &rows)?)
            .write("delta", &cut(delta, &rows)?)
            .threads(count, THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

impl Operands<'_> {
    fn bind<'a>(&self, launch: Launch<'a>, rows: &Range<usize>) -> Result<Launch<'a>> {
        Ok(launch
            .read("q", &cut(self.q, rows)?)
            .read("k", &cut(self.k, rows)?)
            .read("v", &cut(self.v, rows)?)
            .read("dy", &cut(self.dy, rows)?)
            .read("lse", &cut(self.lse, rows)?)
            .read("delta", &cut(self.delta, rows)?))
    }
}

pub(super) fn dq(op: &Attention, operands: &Operands<'_>, beta: f32, dq: &Tensor) -> Result<()> {
    let gpu = dq.gpu();
    let form = Form::of(op, gpu);
    for rows in op.chunks(dq)? {
        let sequences = rows.len() / op.seq;
        let launch = form.launch(op, &ATTENTION_DQ_SUBGROUP, &ATTENTION_DQ_TILED, op.heads, sequences);
        let launch = operands.bind(launch, &rows)?;
        let dq = cut(dq, &rows)?;
        if let Form::Subgroup(_) = form {
            let params = op.subgroup_params(sequences, beta);
            launch.params(&params).write("dq", &dq).run(gpu)?;
        } else {
            let params = op.tiled_params(sequences, beta);
            launch.params(&params).write("out_a", &dq).run(gpu)?;
        }
    }
    Ok(())
}

pub(super) fn dkv(op: &Attention, operands: &Operands<'_>, dk: &Tensor, dv: &Tensor) -> Result<()> {
    let gpu = dk.gpu();
    let form = Form::of(op, gpu);
    for rows in op.chunks(operands.q)? {
        let sequences = rows.len() / op.seq;
        let launch = form.launch(op, &ATTENTION_DKV_SUBGROUP, &ATTENTION_DKV_TILED, op.kv_heads, sequences);
        let launch = operands.bind(launch, &rows)?;
        let (dk, dv) = (cut(dk, &rows)?, cut(dv, &rows)?);
        if let Form::Subgroup(_) = form {
            let params = op.subgroup_params(sequences, 0.0);
            launch.params(&params).write("dk", &dk).write("dv", &dv).run(gpu)?;
        } else {
            let params = op.tiled_params(sequences, 0.0);
            launch.params(&params).write("out_a", &dk).write("out_b", &dv).run(gpu)?;
        }
    }
    Ok(())
}
