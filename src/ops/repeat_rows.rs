//! Each row several times in succession: what all heads of a token share, for each of them.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::kernels::software::limits;
use crate::tensor::Tensor;

/// `y[row * times + t] = x[row]`. Input: `x: [r, w]`. Output: `[r * times, w]`, of x's type.
#[derive(Clone, Copy, Debug)]
pub struct RepeatRows {
    /// Copies of a row, at least 1.
    pub times: usize,
}

/// The forward.
pub static REPEAT_ROWS: PackKernels = forms!("repeat_rows", "repeat_rows.wgsl", RepeatRowsParams, packs);
/// The sums over a row's copies.
pub static REPEAT_ROWS_BACKWARD: PackKernels =
    forms!("repeat_rows_backward", "repeat_rows.wgsl", RepeatRowsParams, packs);

crate::params! {
    struct RepeatRowsParams {
        /// Packs that are written.
        count: u32,
        /// Packs of a row.
        width: u32,
        times: u32,
        /// The copies to sum over.
        first: u32,
        last: u32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    [&REPEAT_ROWS, &REPEAT_ROWS_BACKWARD].into_iter().flat_map(|k| variants(k)).collect()
}

impl Op for RepeatRows {
    fn name(&self) -> &'static str {
        "repeat_rows"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("repeat_rows", "x [r, w], times >= 1", format!("{inputs:?}, {self:?}"));
        let [x] = inputs else { return Err(fail()) };
        let (&[rows, width], times @ 1..) = (x.dims(), self.times) else { return Err(fail()) };
        let Some(repeated) = rows.checked_mul(times) else { return Err(fail()) };
        let y = Tensor::empty(x.gpu(), [repeated, width], x.dtype())?;
        if y.numel() == 0 {
            return Ok(y.into());
        }
        let (pack, by_row) = (pack(width), y.reshape([rows, times * width])?);
        for range in Parts::new("repeat_rows", rows).sliced(x.gpu(), &[width, times * width]).ranges()? {
            let count = range.len() * times * width / pack;
            let params = RepeatRowsParams {
                count: count as u32,
                width: (width / pack) as u32,
                times: times as u32,
                ..Default::default()
            };
            pack_launch(&REPEAT_ROWS, pack)
                .params(&params)
                .read("x", &x.slice(range.clone())?)
                .write("y", &by_row.slice(range)?)
                .threads(count, THREADS)
                .run(x.gpu())?;
        }
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (dy, times) = (pass.dy(), self.times);
        let (dx, mut beta) = pass.target(0)?;
        let (gpu, rows, width) = (dx.gpu(), dx.rows(), dx.cols());
        if dx.numel() == 0 {
            return Ok(());
        }
        let (pack, by_row) = (pack(width), dy.reshape([rows, times * width])?);
        for copies in Parts::new("repeat_rows", times).at_most(limits::iterations(gpu)).ranges()? {
            for range in Parts::new("repeat_rows", rows).sliced(gpu, &[width, times * width]).ranges()? {
                let count = range.len() * width / pack;
                let params = RepeatRowsParams {
                    count: count as u32,
                    width: (width / pack) as u32,
                    times: times as u32,
                    first: copies.start as u32,
                    last: copies.end as u32,
                    beta,
                };
                pack_launch(&REPEAT_ROWS_BACKWARD, pack)
                    .params(&params)
                    .read("dy", &by_row.slice(range.clone())?)
                    .write("dx", &dx.slice(range)?)
                    .threads(count, THREADS)
                    .run(gpu)?;
            }
            beta = 1.0;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (x, times) = (&inputs[0], self.times);
        let width = x.cols();
        Array::from_fn(&[x.rows() * times, width], |i| x.row(i / width / times)[i % width])
    }
}
