//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): rows scaled to root mean square 1, then by a weight a column.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::column_sum::rms_norm_dweight;
use crate::kernels::rows::{RowKernels, forms, pack, row_launch, variants};
use crate::tensor::Tensor;

/// `y = x r g`, `r = (mean(x^2) + eps)^(-1/2)` of each row. Inputs: `x: [.., d]`, weight `g: [d]`. Output: as x.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

/// The forward; saves r.
pub static RMS_NORM: RowKernels = forms!("rms_norm", "rms_norm.wgsl", RmsNormParams, rows);
/// The gradient in x.
pub static RMS_NORM_DX: RowKernels = forms!("rms_norm_dx", "rms_norm.wgsl", RmsNormParams, rows);

crate::params! {
    struct RmsNormParams {
        rows: u32,
        /// Packs of a row.
        width: u32,
        eps: f32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    [&RMS_NORM, &RMS_NORM_DX].into_iter().flat_map(|k| variants(k)).collect()
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [x, weight] = inputs else {
            return Err(Error::shape("rms_norm", "x and weight", format!("{} inputs", inputs.len())));
        };
        if weight.dims() != [x.cols()] {
            return Err(Error::shape("rms_norm", format!("a weight of [{}]", x.cols()), format!("{weight:?}")));
        }
        let (gpu, rows, d) = (x.gpu(), x.rows(), x.cols());
        let y = Tensor::empty(gpu, x.shape(), x.dtype())?;
        let r = Tensor::empty_f32(gpu, [rows])?;
        if x.numel() == 0 {
            return Ok(Forward { output: y, saved: vec![r] });
        }
        let (x2, y2) = (x.reshape([rows, d])?, y.reshape([rows, d])?);
        let pack = pack(d);
        for range in Parts::new("rms_norm", rows).sliced(gpu, &[d, 1]).ranges()? {
            let params = RmsNormParams { rows: range.len() as u32, width: (d / pack) as u32, eps: self.eps, beta: 0.0 };
            row_launch(&RMS_NORM, gpu, range.len(), pack, 2 * d / pack)
                .params(&params)
                .read("x", &x2.slice(range.clone())?)
                .read("weight", *weight)
                .write("y", &y2.slice(range.clone())?)
                .write("r_saved", &r.slice(range)?)
                .run(gpu)?;
        }
        Ok(Forward { output: y, saved: vec![r] })
    }

    // With h = dy g:  dx = r (h - x r^2 mean(h x)),  dg_j = sum over rows of dy_j x_j r.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (x, weight, dy) = (pass.input(0), pass.input(1), pass.dy());
        let r = pass.saved(0).clone();
        let (gpu, rows, d) = (x.gpu(), x.rows(), x.cols());
        if pass.needs(1) {
            let (dweight, beta) = pass.target(1)?;
            if rows == 0 && beta == 0.0 {
                dweight.clear()?;
            }
            if x.numel() > 0 {
                rms_norm_dweight(&x, &r, &dy, beta, &dweight)?;
            }
        }
        if !pass.needs(0) || x.numel() == 0 {
            return Ok(());
        }
        let (dx, beta) = pass.target(0)?;
        let (x, dy, dx) = (x.reshape([rows, d])?, dy.reshape([rows, d])?, dx.reshape([rows, d])?);
        let pack = pack(d);
        for range in Parts::new("rms_norm", rows).sliced(gpu, &[d, 1]).ranges()? {
            let params = RmsNormParams { rows: range.len() as u32, width: (d / pack) as u32, eps: self.eps, beta };
            row_launch(&RMS_NORM_DX, gpu, range.len(), pack, 2 * d / pack)
                .params(&params)
                .read("x", &x.slice(range.clone())?)
                .read("weight", &weight)
                .read("r", &r.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dx", &dx.slice(range)?)
                .run(gpu)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let mut y = x.clone();
        for i in 0..x.rows() {
            let mean = x.row(i).iter().map(|v| v * v).sum::<f64>() / x.cols() as f64;
            let r = (mean + f64::from(self.eps)).sqrt().recip();
            for (v, g) in y.row_mut(i).iter_mut().zip(&weight.data) {
                *v *= r * g;
            }
        }
        y
    }
}
