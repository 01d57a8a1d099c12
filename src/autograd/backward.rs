//! The values that an op's backward has, and where its gradients go.

use std::rc::Rc;

use super::hook::GradientHook;
use super::reads::Reads;
use super::value::{Target, Value, Var};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::elementwise;
use crate::tensor::{DType, Shape, Tensor};

/// The gradients of the [`Tape::variable`](super::Tape::variable)s.
#[derive(Debug)]
pub struct Gradients {
    pub(super) by_var: Vec<(Var, Tensor)>,
}

impl Gradients {
    /// The gradient of a variable; none if nothing reached it.
    pub fn of(&self, var: Var) -> Option<&Tensor> {
        self.by_var.iter().find(|(v, _)| *v == var).map(|(_, gradient)| gradient)
    }
}

/// One op's backward: what it has and where its gradients go.
pub struct Backward<'a> {
    pub(super) gpu: Gpu,
    /// The values before the op's own.
    pub(super) values: &'a mut [Value],
    /// Their gradients so far.
    pub(super) slots: &'a mut [Option<Tensor>],
    pub(super) inputs: &'a [Var],
    /// The op's name and what its backward reads.
    pub(super) name: &'static str,
    pub(super) reads: Reads,
    pub(super) output: Option<Tensor>,
    pub(super) saved: Vec<Tensor>,
    pub(super) dy: Option<Tensor>,
}

impl Backward<'_> {
    /// Input `i`.
    ///
    /// # Panics
    /// When [`Op::reads`](super::Op::reads) does not say that backward reads it.
    pub fn input(&self, i: usize) -> Tensor {
        let value = self.values[self.inputs[i].0].tensor.as_ref().filter(|_| self.reads.input(i));
        value.unwrap_or_else(|| panic!("{}: backward reads input {i}, reads() does not say so", self.name)).clone()
    }

    /// The number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// The shape of input `i`, which is there whether or not backward reads the input.
    pub fn shape(&self, i: usize) -> Shape {
        self.values[self.inputs[i].0].shape
    }

    /// The output.
    ///
    /// # Panics
    /// When [`Op::reads`](super::Op::reads) does not say that backward reads it.
    pub fn output(&self) -> &Tensor {
        let value = self.output.as_ref().filter(|_| self.reads.output());
        value.unwrap_or_else(|| panic!("{}: backward reads the output, reads() does not say so", self.name))
    }

    /// The `i`-th tensor that forward saved.
    pub fn saved(&self, i: usize) -> &Tensor {
        &self.saved[i]
    }

    /// The gradient of the output. Others may share its buffer: never write to it.
    ///
    /// # Panics
    /// Never before [`Backward::take_dy`].
    pub fn dy(&self) -> Tensor {
        self.dy.clone().expect("taken only once, at the end")
    }

    /// The gradient of the output, given up by this pass, so that it can become an input's gradient without a copy.
    ///
    /// # Panics
    /// When called twice.
    pub fn take_dy(&mut self) -> Tensor {
        self.dy.take().expect("taken only once, at the end")
    }

    /// Whether input `i` wants a gradient.
    pub fn needs(&self, i: usize) -> bool {
        let value = &self.values[self.inputs[i].0];
        value.needs_gradient && value.dtype != DType::U32
    }

    /// The hook that was registered for the gradient of input `i`, if that is a parameter. An op whose gradient of a weight is a
    /// product of its input's rows and its output's gradient's asks for it.
    pub fn hook(&self, i: usize) -> Option<Rc<dyn GradientHook>> {
        self.values[self.inputs[i].0].target.as_ref()?.hook.clone()
    }

    /// Where to write the gradient of input `i`, and the factor (0 or 1) on what is there already: a kernel computes
    /// `target = gradient + factor * target`. To be called once for an input, and then to be written for certain, before
    /// the next call: two inputs may be the same value. Where one kernel writes two gradients, use [`Backward::add`].
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn target(&mut self, i: usize) -> Result<(Tensor, f32)> {
        let var = self.inputs[i].0;
        if let Some(Target { gradient, written, .. }) = &mut self.values[var].target {
            let factor = if std::mem::replace(written, true) { 1.0 } else { 0.0 };
            return Ok((gradient.clone(), factor));
        }
        let Value { shape, dtype, .. } = self.values[var];
        let slot = &mut self.slots[var];
        let (tensor, factor) = match slot.take() {
            None => (Tensor::empty(&self.gpu, shape, dtype)?, 0.0),
            Some(tensor) if tensor.is_unique() => (tensor, 1.0),
            Some(shared) => (shared.duplicate()?, 1.0),
        };
        *slot = Some(tensor.clone());
        Ok((tensor, factor))
    }

    /// Adds `gradient` to the gradient of input `i`.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn add(&mut self, i: usize, gradient: Tensor) -> Result<()> {
        let var = self.inputs[i].0;
        if let Some(Target { gradient: target, written, .. }) = &mut self.values[var].target {
            return if std::mem::replace(written, true) {
                elementwise::add_into(target, &gradient)
            } else {
                target.copy_from(&gradient)
            };
        }
        let shape = self.values[var].shape;
        accumulate(&mut self.slots[var], gradient.reshape(shape)?)
    }
}

pub(super) fn accumulate(slot: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *slot = Some(match slot.take() {
        None => gradient,
        Some(sum) if sum.is_unique() => {
            elementwise::add_into(&sum, &gradient)?;
            sum
        }
        Some(sum) if gradient.is_unique() => {
            elementwise::add_into(&gradient, &sum)?;
            gradient
        }
        Some(shared) => {
            let sum = shared.duplicate()?;
            elementwise::add_into(&sum, &gradient)?;
            sum
        }
    });
    Ok(())
}
