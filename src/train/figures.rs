//! The figures of a step: collected on the device while the step is recorded, read back when they arrive.
//!
//! Each lies at the start of a row of its own, because a view must start aligned. No other module knows the rows.

use crate::error::Result;
use crate::gpu::{Gpu, Readback};
use crate::kernels::elementwise::{axpby, fill};
use crate::optim::{LossScale, StepOutput};
use crate::tensor::{DType, Tensor};

/// Elements of a row: 256 bytes, the largest alignment that WebGPU allows.
pub(super) const ROW: usize = 64;

/// The rows.
#[derive(Clone, Copy, Debug)]
enum Row {
    /// The loss.
    Loss,
    /// The auxiliary losses.
    AuxLoss,
    /// The gradient's norm.
    Norm,
    /// In mixed precision all of [`StepOutput::norm`]: `[norm, scale, failed, loss scale]`.
    Clip,
    /// In mixed precision [`LossScale::state`]: `[next scale, good steps, skipped steps, 0]`.
    Scaling,
}

impl Row {
    const COUNT: usize = Row::Scaling as usize + 1;
}

/// The figures of the step that is being recorded, on the device.
#[derive(Debug)]
pub(super) struct Figures {
    rows: Tensor,
}

impl Figures {
    /// Room for the figures of one step, and for `in_flight` steps whose figures are on their way.
    pub(super) fn new(gpu: &Gpu, in_flight: usize) -> Result<Self> {
        let rows = Tensor::persistent(gpu, [Row::COUNT, ROW], DType::F32)?;
        // Those outstanding, and the step's own.
        gpu.reserve_readbacks(rows.bytes(), in_flight + 1)?;
        Ok(Self { rows })
    }

    /// The whole row, `[ROW]`.
    fn row(&self, row: Row) -> Result<Tensor> {
        self.rows.slice(row as usize..row as usize + 1)?.reshape([ROW])
    }

    /// The first `n` numbers of a row.
    fn first(&self, row: Row, n: usize) -> Result<Tensor> {
        self.row(row)?.slice(0..n)
    }

    /// Records what a micro-batch has to say, weighted with its `share` in the step: its `loss: [1]` and its auxiliary losses. The
    /// first one of a step replaces what the last step left.
    pub(super) fn add<'a>(
        &self,
        share: f32,
        loss: &Tensor,
        auxiliary: impl IntoIterator<Item = &'a Tensor>,
        first: bool,
    ) -> Result<()> {
        let keep = if first { 0.0 } else { 1.0 };
        axpby(share, loss, keep, &self.first(Row::Loss, 1)?)?;
        let (sum, mut keep) = (self.first(Row::AuxLoss, 1)?, keep);
        for aux in auxiliary {
            axpby(share, aux, keep, &sum)?;
            keep = 1.0;
        }
        // Without any there may be some of an earlier step, as weights of losses can change.
        if keep == 0.0 { fill(&sum, 0.0) } else { Ok(()) }
    }

    /// Records what the optimizer has to say, in mixed precision with its loss scale, and starts reading all figures.
    pub(super) fn read(&self, output: &StepOutput, scaling: Option<&LossScale>) -> Result<PendingFigures> {
        self.first(Row::Norm, 1)?.copy_from(&output.norm.slice(0..1)?)?;
        if let Some(scaling) = scaling {
            // Whole: no view begins at the numbers that are wanted.
            self.first(Row::Clip, 4)?.copy_from(&output.norm)?;
            self.first(Row::Scaling, 4)?.copy_from(&scaling.state)?;
        }
        Ok(PendingFigures { mixed: scaling.is_some(), readback: self.rows.read()? })
    }
}

/// Figures on their way from the device.
#[derive(Debug)]
pub(super) struct PendingFigures {
    mixed: bool,
    readback: Readback,
}

impl PendingFigures {
    /// The figures, if they have arrived.
    pub(super) fn try_take(&mut self) -> Option<Result<StepFigures>> {
        let bytes = self.readback.try_take()?;
        Some(bytes.map(|bytes| StepFigures::new(self.mixed, &bytes)))
    }

    /// Waits for the figures.
    pub(super) async fn arrive(self) -> Result<StepFigures> {
        Ok(StepFigures::new(self.mixed, &self.readback.await?))
    }
}

/// The figures of one step, in host memory.
#[derive(Clone, Debug)]
pub(super) struct StepFigures {
    mixed: bool,
    rows: Vec<f32>,
}

impl StepFigures {
    fn new(mixed: bool, bytes: &[u8]) -> Self {
        Self { mixed, rows: bytemuck::pod_collect_to_vec(bytes) }
    }

    fn get(&self, row: Row, i: usize) -> f32 {
        self.rows[row as usize * ROW + i]
    }

    /// Cross-entropy, nats per token.
    pub(super) fn loss(&self) -> f32 {
        self.get(Row::Loss, 0)
    }

    /// Auxiliary losses, weighted, summed over layers.
    pub(super) fn aux_loss(&self) -> f32 {
        self.get(Row::AuxLoss, 0)
    }

    /// The gradient's norm before clipping; 0 for a step that the loss scale has skipped.
    pub(super) fn grad_norm(&self) -> f32 {
        let failed = self.mixed && self.get(Row::Clip, 2) != 0.0;
        // At 1 there is nothing left to take back: the gradients themselves overflow.
        let skipped = failed && self.loss_scale().is_some_and(|scale| scale > 1.0);
        if skipped { 0.0 } else { self.get(Row::Norm, 0) }
    }

    /// In mixed precision the loss scale of the step.
    pub(super) fn loss_scale(&self) -> Option<f32> {
        self.mixed.then(|| self.get(Row::Clip, 3))
    }

    /// In mixed precision the steps of the run, this one included, that were skipped.
    pub(super) fn skipped_steps(&self) -> Option<u32> {
        self.mixed.then(|| self.get(Row::Scaling, 2) as u32)
    }
}
