//! Attention's kernels, their choice and their launches, split by sequences where a batch exceeds one binding.

use std::ops::Range;

use super::Attention;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Launch, Parts};
use crate::kernels::Variant;
use crate::kernels::attention::AttentionParams;
use crate::kernels::rows::{FourKernels, PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::kernels::software::attention::{
    self as software, ATTENTION_DKV_SUBGROUP, ATTENTION_DQ_SUBGROUP, ATTENTION_SUBGROUP, Registers,
};
use crate::kernels::software::limits;
use crate::tensor::Tensor;

/// A kernel through workgroup memory: for scalars, and for vec4.
pub type WorkgroupKernels = [Kernel; 2];

macro_rules! workgroup_forms {
    ($name:literal, $file:literal) => {
        [
            forms!(
                @kernel $name, ["_scalar"], $file, AttentionParams, "lib/pack_scalar.wgsl", "lib/attention_rows_scalar.wgsl"
            ),
            forms!(@kernel $name, ["_vec4"], $file, AttentionParams, "lib/pack_vec4.wgsl", "lib/attention_rows_vec4.wgsl"),
        ]
    };
}

/// The forward through workgroup memory, for any head_dim.
pub static ATTENTION_WORKGROUP: WorkgroupKernels = workgroup_forms!("attention_workgroup", "attention_workgroup.wgsl");
/// The gradient in the queries, likewise.
pub static ATTENTION_DQ_WORKGROUP: WorkgroupKernels =
    workgroup_forms!("attention_dq_workgroup", "attention_dq_workgroup.wgsl");
/// The gradients in keys and values, likewise.
pub static ATTENTION_DKV_WORKGROUP: WorkgroupKernels =
    workgroup_forms!("attention_dkv_workgroup", "attention_dkv_workgroup.wgsl");
/// `rowsum(dy y)` by head.
pub static ATTENTION_DELTA: PackKernels = forms!("attention_delta", "attention_delta.wgsl", DeltaParams, packs);

crate::params! {
    struct DeltaParams {
        /// Rows times heads.
        count: u32,
        /// Head_dim in packs.
        width: u32,
    }
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

/// Rows of the workgroup kernels' tiles, and columns of a panel of their outputs.
const SIDE: usize = 32;
/// Panels that one workgroup of them can make: two of either output in dK and dV.
const PANELS: [u32; 3] = [1, 2, 4];
/// Workgroups that keep a GPU busy. With fewer, a wide head's columns are spread over more of them, which all make the
/// scores anew. To the bit they compute the same.
const MANY_WORKGROUPS: usize = 512;

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    let mut all = variants(&ATTENTION_DELTA);
    all.extend(software::kernels());
    for (kernels, panels) in [
        (&ATTENTION_WORKGROUP, &PANELS[..]),
        (&ATTENTION_DQ_WORKGROUP, &PANELS[..]),
        (&ATTENTION_DKV_WORKGROUP, &PANELS[..2]),
    ] {
        for (kernel, &panels) in kernels.iter().flat_map(|kernel| panels.iter().map(move |panels| (kernel, panels))) {
            for windowed in [0.0, 1.0] {
                let constants = vec![("PANELS", f64::from(panels)), ("WINDOWED", windowed)];
                all.push(Variant { kernel, constants });
            }
        }
    }
    all
}

/// Which kernels to use.
enum Form {
    /// Those of software adapters.
    Software(Registers),
    /// With packs of this many elements.
    Workgroup { pack: usize },
}

impl Form {
    fn of(op: &Attention, gpu: &Gpu) -> Self {
        match Registers::of(gpu, op.head_dim) {
            Some(registers) => Form::Software(registers),
            None => Form::Workgroup { pack: pack(op.head_dim) },
        }
    }

    /// The name of an output in a kernel of this form: by the software kernel's name and the workgroup kernel's.
    fn name(&self, software: &'static str, workgroup: &'static str) -> &'static str {
        if let Form::Software(_) = self { software } else { workgroup }
    }

    /// Elements of a pack.
    fn pack(&self) -> usize {
        match *self {
            Form::Software(_) => 4,
            Form::Workgroup { pack } => pack,
        }
    }

    /// Loop iterations of a thread over one head of a sequence: of each kernel, or more.
    fn iterations(&self, op: &Attention) -> usize {
        match *self {
            Form::Software(registers) => registers.iterations(op.seq, op.keys(), op.head_dim),
            // Scores and dP by quads of columns, 8 at a time, and two sums over a tile's 8 quads of rows: 18 iterations
            // and those of quads and eights. llvmpipe stops as if they were 31, and those of the eights twice as many.
            Form::Workgroup { .. } => {
                let quads = op.head_dim.div_ceil(4);
                op.seq.min(op.keys().saturating_add(2 * SIDE)).div_ceil(SIDE)
                    * (32 + 2 * quads + 4 * quads.div_ceil(SIDE / 4))
            }
        }
    }

    /// # Errors
    /// [`Error::Shape`] when one sequence needs more loop iterations of a thread than the adapter allows.
    fn check(&self, op: &Attention, gpu: &Gpu) -> Result<()> {
        let (needed, limit) = (self.iterations(op), limits::iterations(gpu));
        if needed > limit {
            let expected = format!("a sequence within {limit} loop iterations a thread, this adapter's limit");
            return Err(Error::shape("attention", expected, format!("{needed} for seq {}", op.seq)));
        }
        Ok(())
    }

    /// A launch over all tiles of `heads` heads in `sequences` sequences; a workgroup can make `most` panels.
    fn launch<'a>(
        &self,
        op: &Attention,
        software: &'static FourKernels,
        (workgroup, most): (&'static WorkgroupKernels, u32),
        heads: usize,
        sequences: usize,
    ) -> Launch<'a> {
        let heads = heads * sequences;
        let launch = match *self {
            Form::Software(registers) => registers.launch(software, op.seq, op.head_dim, heads),
            Form::Workgroup { pack } => {
                let tiles = heads * op.seq.div_ceil(SIDE);
                let blocks = |panels: u32| op.head_dim.div_ceil(SIDE * panels as usize);
                let mut panels = most.min(2);
                if blocks(1) == 1 {
                    panels = 1;
                } else if tiles * blocks(most) >= MANY_WORKGROUPS && blocks(most) < blocks(panels) {
                    panels = most;
                }
                Launch::new(&workgroup[usize::from(pack == 4)])
                    .constant("PANELS", panels)
                    .workgroups(tiles * blocks(panels))
            }
        };
        launch.constant("WINDOWED", u32::from(op.keys() < op.seq))
    }
}

impl Attention {
    /// Keys that a query sees at most.
    fn keys(&self) -> usize {
        self.window.unwrap_or(usize::MAX)
    }

    /// `times` multiplied by the factor on scores.
    fn scaled(&self, times: f64) -> f32 {
        self.scale.map_or_else(|| times / (self.head_dim as f64).sqrt(), |scale| times * f64::from(scale)) as f32
    }

    fn params(&self, form: &Form, sequences: usize, beta: f32) -> AttentionParams {
        AttentionParams {
            sequences: sequences as u32,
            seq: self.seq as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            width: (self.head_dim / form.pack()) as u32,
            value_width: (self.head_dim / form.pack()) as u32,
            share_first: 0,
            share_last: (self.heads / self.kv_heads) as u32,
            window: self.keys().min(self.seq) as u32,
            scale: self.scaled(std::f64::consts::LOG2_E),
            scale_out: self.scaled(1.0),
            beta,
        }
    }

    /// Ranges of rows of whole sequences that fit one binding.
    fn parts(&self, x: &Tensor) -> Result<impl Iterator<Item = Range<usize>> + use<>> {
        let seq = self.seq;
        let row = |heads: usize| seq * heads * self.head_dim;
        let elements = [row(self.heads), row(self.kv_heads), seq * self.heads];
        let chunks = Parts::new("attention", x.rows() / seq).sliced(x.gpu(), &elements).ranges()?;
        Ok(chunks.map(move |range| range.start * seq..range.end * seq))
    }
}

/// `x` as rows, cut.
fn cut(x: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    x.reshape([x.rows(), x.cols()])?.slice(range.clone())
}

pub(super) fn forward(op: &Attention, q: &Tensor, k: &Tensor, v: &Tensor, y: &Tensor, lse: &Tensor) -> Result<()> {
    let form = Form::of(op, q.gpu());
    form.check(op, q.gpu())?;
    for rows in op.parts(q)? {
        let sequences = rows.len() / op.seq;
        let launch = form
            .launch(op, &ATTENTION_SUBGROUP, (&ATTENTION_WORKGROUP, 4), op.heads, sequences)
            .read("q", &cut(q, &rows)?)
            .read("k", &cut(k, &rows)?)
            .read("v", &cut(v, &rows)?);
        let (y, lse) = (cut(y, &rows)?, cut(lse, &rows)?);
        let params = op.params(&form, sequences, 0.0);
        let launch = launch.params(&params).write(form.name("y", "out_a"), &y);
        launch.write(form.name("lse", "lse_out"), &lse).run(q.gpu())?;
    }
    Ok(())
}

pub(super) fn delta(op: &Attention, y: &Tensor, dy: &Tensor, delta: &Tensor) -> Result<()> {
    let pack = pack(op.head_dim);
    for rows in op.parts(y)? {
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
    for rows in op.parts(dq)? {
        let sequences = rows.len() / op.seq;
        let launch = form.launch(op, &ATTENTION_DQ_SUBGROUP, (&ATTENTION_DQ_WORKGROUP, 4), op.heads, sequences);
        let launch = operands.bind(launch, &rows)?;
        let dq = cut(dq, &rows)?;
        let params = op.params(&form, sequences, beta);
        launch.params(&params).write(form.name("dq", "out_a"), &dq).run(gpu)?;
    }
    Ok(())
}

pub(super) fn dkv(op: &Attention, operands: &Operands<'_>, dk: &Tensor, dv: &Tensor) -> Result<()> {
    let gpu = dk.gpu();
    let form = Form::of(op, gpu);
    // The query heads of a key's head are summed over in parts that the adapter's loops can take.
    let share = op.heads / op.kv_heads;
    let share_limit = (limits::iterations(gpu) / form.iterations(op)).max(1);
    for rows in op.parts(operands.q)? {
        let sequences = rows.len() / op.seq;
        let (dk, dv) = (cut(dk, &rows)?, cut(dv, &rows)?);
        for heads in Parts::new("attention", share).at_most(share_limit).ranges()? {
            let params = AttentionParams {
                share_first: heads.start as u32,
                share_last: heads.end as u32,
                ..op.params(&form, sequences, if heads.start == 0 { 0.0 } else { 1.0 })
            };
            let launch =
                form.launch(op, &ATTENTION_DKV_SUBGROUP, (&ATTENTION_DKV_WORKGROUP, 2), op.kv_heads, sequences);
            let launch = operands.bind(launch, &rows)?.params(&params);
            launch.write(form.name("dk", "out_a"), &dk).write(form.name("dv", "out_b"), &dv).run(gpu)?;
        }
    }
    Ok(())
}
