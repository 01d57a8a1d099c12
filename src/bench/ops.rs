//! Attention, and the ops that a memory's bandwidth bounds.

use super::case::{Case, Group, Record};
use super::ceiling::random;
use crate::autograd::{Op, Tape};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::{Add, Attention, CachedAttention, CrossEntropy, Embedding, RmsNorm, Rope, RotaryTable, SwiGlu};
use crate::tensor::{DType, Tensor};

type Inputs = fn(&Gpu) -> Result<Vec<Tensor>>;

/// An op forward, or forward and backward with the gradients of all inputs.
fn run<T: Op + Clone + 'static>(gpu: &Gpu, op: T, inputs: Vec<Tensor>, backward: bool) -> Result<Record> {
    let gpu = gpu.clone();
    if !backward {
        return Ok(Box::new(move || op.forward(&inputs.iter().collect::<Vec<_>>()).map(drop)));
    }
    let output = op.forward(&inputs.iter().collect::<Vec<_>>())?.output;
    let dy = random(&gpu, output.dims())?;
    Ok(Box::new(move || {
        let mut tape = Tape::new(&gpu);
        let vars: Vec<_> = inputs.iter().map(|x| tape.variable(x)).collect();
        let y = tape.apply(op.clone(), &vars)?;
        tape.backward(&[(y, dy.clone())]).map(drop)
    }))
}

/// `attention.{forward,both}.*`: operations of the causal half; two products forward, five backward (scores again, dP,
/// dV, dQ, dK), however many a kernel makes.
fn attention(batch: usize, seq: usize, heads: usize, kv_heads: usize, head_dim: usize) -> [Case; 2] {
    let product = (batch * heads * seq * (seq + 1) * head_dim) as f64;
    [("forward", 2.0), ("both", 7.0)].map(|(what, products)| {
        let op = Attention::new(heads, kv_heads, head_dim, seq);
        let make = move |gpu: &Gpu| {
            let rows = batch * seq;
            let [k, v] = [random(gpu, &[rows, kv_heads * head_dim])?, random(gpu, &[rows, kv_heads * head_dim])?];
            run(gpu, op, vec![random(gpu, &[rows, heads * head_dim])?, k, v], what == "both")
        };
        let name = format!("attention.{what}.b{batch}.s{seq}.h{heads}.kv{kv_heads}.d{head_dim}");
        Case::new(name, make).flop(products * product)
    })
}

/// `attention.cached.*`: a token after `past` others; the bytes of the keys and values that it sees.
fn cached(past: usize, heads: usize, kv_heads: usize, head_dim: usize) -> Case {
    let make = move |gpu: &Gpu| {
        let op = CachedAttention::new(heads, kv_heads, head_dim, head_dim);
        let cache = [past + 1, kv_heads * head_dim];
        let (q, k, v) = (random(gpu, &[1, heads * head_dim])?, random(gpu, &cache)?, random(gpu, &cache)?);
        Ok(Box::new(move || op.forward(&q, &k, &v, past).map(drop)) as Record)
    };
    let name = format!("attention.cached.p{past}.h{heads}.kv{kv_heads}.d{head_dim}");
    Case::new(name, make).bytes((8 * (past + 1) * kv_heads * head_dim) as f64)
}

/// `attention.*`.
pub(super) fn attentions() -> Group {
    let cached = [(511, 16, 16, 128), (4095, 16, 2, 128)]
        .map(|(past, heads, kv_heads, head_dim)| cached(past, heads, kv_heads, head_dim));
    [(8, 256, 8, 8, 32), (8, 256, 8, 4, 32), (1, 1024, 8, 8, 32), (4, 256, 4, 4, 64), (4, 256, 2, 2, 128)]
        .into_iter()
        .flat_map(|(batch, seq, heads, kv_heads, head_dim)| attention(batch, seq, heads, kv_heads, head_dim))
        .chain(cached)
        .collect()
}

/// Rows and columns of the inputs; tokens of the vocabulary.
const ROWS: usize = 2048;
const COLUMNS: usize = 512;
const VOCABULARY: usize = 256;

fn tokens(gpu: &Gpu) -> Result<Tensor> {
    let tokens: Vec<u32> = (0..ROWS as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 24).collect();
    let x = Tensor::persistent(gpu, [ROWS], DType::U32)?;
    x.write_u32(&tokens)?;
    Ok(x)
}

/// `norms.{name}.{forward,both}`; `passes`: how often matrices of the input's size are read or written at least,
/// forward, and backward beside that.
fn rows<T: Op + Clone + 'static>(
    name: &str,
    op: fn(&Gpu) -> Result<T>,
    inputs: Inputs,
    size: usize,
    passes: [f64; 2],
) -> [Case; 2] {
    [("forward", passes[0]), ("both", passes[0] + passes[1])].map(|(what, passes)| {
        let make = move |gpu: &Gpu| run(gpu, op(gpu)?, inputs(gpu)?, what == "both");
        Case::new(format!("norms.{name}.{what}"), make).bytes(passes * 4.0 * size as f64)
    })
}

/// `norms.*`: norms and the other ops of rows.
pub(super) fn norms() -> Group {
    let matrix = |gpu: &Gpu| random(gpu, &[ROWS, COLUMNS]);
    let size = ROWS * COLUMNS;
    let norm: Inputs = |gpu| Ok(vec![random(gpu, &[ROWS, COLUMNS])?, random(gpu, &[COLUMNS])?]);
    let one: Inputs = |gpu| Ok(vec![random(gpu, &[ROWS, COLUMNS])?]);
    let two: Inputs = |gpu| Ok(vec![random(gpu, &[ROWS, COLUMNS])?, random(gpu, &[ROWS, COLUMNS])?]);
    let embedding: Inputs = |gpu| Ok(vec![random(gpu, &[VOCABULARY, COLUMNS])?, tokens(gpu)?]);
    let loss: Inputs = |gpu| Ok(vec![random(gpu, &[ROWS, VOCABULARY])?, tokens(gpu)?]);
    let add = move |gpu: &Gpu| {
        let (x, y) = (matrix(gpu)?, matrix(gpu)?);
        run(gpu, Add, vec![x, y], false)
    };
    let mut cases = vec![Case::new("norms.add.forward", add).bytes(12.0 * size as f64)];
    // x, y; x, dy, dx
    cases.extend(rows("rms_norm", |_| Ok(RmsNorm { eps: 1e-5 }), norm, size, [2.0, 3.0]));
    // gate, up, y; gate, up, dy, dgate, dup
    cases.extend(rows("swiglu", |_| Ok(SwiGlu), two, size, [3.0, 5.0]));
    let rope = |gpu: &Gpu| Ok(Rope::new(&RotaryTable::new(gpu, 32, 1e4)?, 16, 256));
    cases.extend(rows("rope", rope, one, size, [2.0, 2.0]));
    // y; dy
    cases.extend(rows("embedding", |_| Ok(Embedding), embedding, size, [1.0, 1.0]));
    // logits; logits, dlogits
    cases.extend(rows("cross_entropy", |_| Ok(CrossEntropy), loss, ROWS * VOCABULARY, [1.0, 2.0]));
    cases
}
