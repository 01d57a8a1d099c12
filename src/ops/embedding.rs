//! Rows of a table by token.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::{DType, Tensor};

/// `y_t = table[token_t]`. Inputs: `table: [V, d]`, `token: u32 [T]`. Output: `[T, d]`.
///
/// A token that is not below V gives a row of zeros and no gradient.
#[derive(Clone, Copy, Debug)]
pub struct Embedding;

/// As [`Embedding`] of a table in bf16 or f16, whose rows have a multiple of 4 elements, with the output in f32 and no gradient: for
/// inference with weights of 16 bits and activations of 32.
#[derive(Clone, Copy, Debug)]
pub struct WideEmbedding;

/// The forward.
pub static EMBEDDING: PackKernels = forms!("embedding", "embedding.wgsl", EmbeddingParams, packs);
/// Links the positions of each token.
pub static EMBEDDING_LINKS: PackKernels = forms!("embedding_links", "embedding.wgsl", EmbeddingParams, packs);
/// Sums the output's gradient along the links.
pub static EMBEDDING_DTABLE: PackKernels = forms!("embedding_dtable", "embedding.wgsl", EmbeddingParams, packs);

/// [`WideEmbedding`] of bf16.
static EMBEDDING_BF16: Kernel = Kernel::new("embedding_bf16", wgsl!["lib/table_bf16.wgsl", "embedding_wide.wgsl"])
    .entry("embedding_wide")
    .params::<EmbeddingParams>();
/// [`WideEmbedding`] of f16.
static EMBEDDING_F16: Kernel = Kernel::new("embedding_f16", wgsl!["lib/table_f16.wgsl", "embedding_wide.wgsl"])
    .entry("embedding_wide")
    .params::<EmbeddingParams>();

crate::params! {
    struct EmbeddingParams {
        tokens: u32,
        /// Packs of a row.
        width: u32,
        /// The table's rows that are bound: first..first + rows.
        first: u32,
        rows: u32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    let packs = [&EMBEDDING, &EMBEDDING_LINKS, &EMBEDDING_DTABLE].into_iter().flat_map(|k| variants(k));
    packs.chain([&EMBEDDING_BF16, &EMBEDDING_F16].map(Variant::from)).collect()
}

/// Positions that one launch links: a thread's loops over them stay within every adapter's limit of iterations. A power
/// of two, so that spans of any rows start aligned.
const SPAN: usize = 1 << 15;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let (table, token) = table_and_tokens(inputs)?;
        let pack = pack(table.cols());
        Ok(rows(table, token, table.dtype(), pack, || pack_launch(&EMBEDDING, pack))?.into())
    }

    // dtable[v] = sum of dy_t over the positions t of token v. A thread for each v links its positions in order (V T
    // comparisons with loads that all threads share), then a thread for each element of the table walks the links.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (table, token, dy) = (pass.input(0), pass.input(1), pass.dy());
        if !pass.needs(0) {
            return Ok(());
        }
        let (dtable, mut beta) = pass.target(0)?;
        let (gpu, d, v) = (table.gpu(), table.cols(), table.rows());
        if table.numel() == 0 {
            return Ok(());
        }
        if token.numel() == 0 && beta == 0.0 {
            return dtable.clear();
        }
        let pack = pack(d);
        for tokens in Parts::new("embedding", token.numel()).at_most(SPAN).sliced(gpu, &[d, 1]).ranges()? {
            let next = Tensor::empty_u32(gpu, [tokens.len()])?;
            for rows in Parts::new("embedding", v).sliced(gpu, &[d, 1]).ranges()? {
                let head = Tensor::empty_u32(gpu, [rows.len()])?;
                let params = EmbeddingParams {
                    tokens: tokens.len() as u32,
                    width: (d / pack) as u32,
                    first: rows.start as u32,
                    rows: rows.len() as u32,
                    beta,
                };
                pack_launch(&EMBEDDING_LINKS, pack)
                    .params(&params)
                    .read("token", &token.slice(tokens.clone())?)
                    .write("next_out", &next)
                    .write("head_out", &head)
                    .threads(rows.len(), THREADS)
                    .run(gpu)?;
                pack_launch(&EMBEDDING_DTABLE, pack)
                    .params(&params)
                    .read("next", &next)
                    .read("head", &head)
                    .read("dy", &dy.slice(tokens.clone())?)
                    .write("dtable", &dtable.slice(rows.clone())?)
                    .threads(rows.len() * d / pack, THREADS)
                    .run(gpu)?;
            }
            beta = 1.0;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (table, token) = (&inputs[0], &inputs[1]);
        let mut y = Array::zeros(&[token.data.len(), table.cols()]);
        for (t, &v) in token.data.iter().enumerate() {
            if (v as usize) < table.rows() {
                y.row_mut(t).copy_from_slice(table.row(v as usize));
            }
        }
        y
    }
}

impl Op for WideEmbedding {
    fn name(&self) -> &'static str {
        "wide_embedding"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let (table, token) = table_and_tokens(inputs)?;
        let kernel = match table.dtype() {
            DType::Bf16 if table.cols().is_multiple_of(4) => &EMBEDDING_BF16,
            DType::F16 if table.cols().is_multiple_of(4) => &EMBEDDING_F16,
            _ => {
                let expected = "a table of bf16 or f16 in rows of multiples of 4 elements";
                return Err(Error::shape("wide_embedding", expected, format!("{table:?}")));
            }
        };
        Ok(rows(table, token, DType::F32, 4, || Launch::new(kernel).constant("WG", THREADS))?.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        if pass.needs(0) {
            return Err(Error::shape("wide_embedding", "inference", "a gradient of the table"));
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        Embedding.reference(inputs)
    }
}

fn table_and_tokens<'a>(inputs: &[&'a Tensor]) -> Result<(&'a Tensor, &'a Tensor)> {
    let [table, token] = inputs else {
        return Err(Error::shape("embedding", "table and tokens", format!("{} inputs", inputs.len())));
    };
    if table.dims().len() != 2 || token.dims().len() != 1 || token.dtype() != DType::U32 {
        let expected = "table [V, d], tokens u32 [T]";
        return Err(Error::shape("embedding", expected, format!("{table:?}, {token:?}")));
    }
    Ok((table, token))
}

/// The rows of `table` by token, in `dtype`; `launch` begins one that copies `pack` elements a thread.
fn rows<'a>(
    table: &Tensor,
    token: &Tensor,
    dtype: DType,
    pack: usize,
    launch: impl Fn() -> Launch<'a>,
) -> Result<Tensor> {
    let (gpu, d) = (table.gpu(), table.cols());
    let y = Tensor::empty(gpu, [token.numel(), d], dtype)?;
    if table.numel() == 0 {
        y.clear()?;
        return Ok(y);
    }
    for tokens in Parts::new("embedding", token.numel()).sliced(gpu, &[d, 1]).ranges()? {
        for rows in Parts::new("embedding", table.rows()).sliced(gpu, &[d]).ranges()? {
            let params = EmbeddingParams {
                tokens: tokens.len() as u32,
                width: (d / pack) as u32,
                first: rows.start as u32,
                rows: rows.len() as u32,
                beta: 0.0,
            };
            launch()
                .params(&params)
                .read("token", &token.slice(tokens.clone())?)
                .read("table", &table.slice(rows)?)
                .write("y", &y.slice(tokens.clone())?)
                .threads(tokens.len() * d / pack, THREADS)
                .run(gpu)?;
        }
    }
    Ok(y)
}
