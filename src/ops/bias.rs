//! A vector added to each row: the bias of a linear layer.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::column_sum::column_sum_onto;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::{DType, Tensor};

/// `y = x + b`. Inputs: `x: [.., n]`, `b: f32 [n]`, also where x is f16. Output: as x.
#[derive(Clone, Copy, Debug)]
pub struct Bias;

/// The forward.
pub static BIAS: PackKernels = forms!("bias", "bias.wgsl", BiasParams, packs);

crate::params! {
    struct BiasParams {
        /// In packs.
        count: u32,
        /// Packs of a row.
        width: u32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    variants(&BIAS)
}

impl Op for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("bias", "x [.., n] and b f32 [n]", format!("{inputs:?}"));
        let [x, b] = inputs else { return Err(fail()) };
        if b.dims() != [x.cols()] || b.dtype() != DType::F32 {
            return Err(fail());
        }
        let (gpu, rows, width) = (x.gpu(), x.rows(), x.cols());
        let y = Tensor::empty(gpu, x.shape(), x.dtype())?;
        if y.numel() == 0 {
            return Ok(y.into());
        }
        let (pack, x, by_row) = (pack(width), x.reshape([rows, width])?, y.reshape([rows, width])?);
        for range in Parts::new("bias", rows).sliced(gpu, &[width]).ranges()? {
            let count = range.len() * width / pack;
            pack_launch(&BIAS, pack)
                .params(&BiasParams { count: count as u32, width: (width / pack) as u32 })
                .read("x", &x.slice(range.clone())?)
                .read("b", *b)
                .write("y", &by_row.slice(range)?)
                .threads(count, THREADS)
                .run(gpu)?;
        }
        Ok(y.into())
    }

    // db_j = sum over rows of dy_j,  dx = dy: shared, not copied.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        if pass.needs(1) {
            let dy = pass.dy();
            let (db, beta) = pass.target(1)?;
            column_sum_onto(&dy, beta, &db)?;
        }
        if pass.needs(0) {
            let dy = pass.take_dy();
            pass.add(0, dy)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (x, b) = (&inputs[0], &inputs[1]);
        Array::from_fn(&x.shape, |i| x.data[i] + b.data[i % x.cols()])
    }
}
