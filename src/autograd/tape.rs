//! The tape: what was applied to what, which values backward still reads, and the reverse loop.
//!
//! A value lives while somebody reads it. The forward says when it is done with one ([`Tape::release`]); each op says what
//! its backward reads ([`Op::reads`]). A released value that no backward reads is freed at once, one that some do when the
//! last of them has run, and one of [`Tape::apply_recomputed`] at once as well: backward makes it again when it is asked
//! for, by the op that made it, hence with the same bits.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::backward::{Backward, Gradients, accumulate};
use super::hook::GradientHook;
use super::op::{Forward, Op};
use super::value::{Target, Value, Var};
use crate::error::{Error, Result};
use crate::gpu::{BufferSlice, Gpu};
use crate::kernels::elementwise;
use crate::tensor::Tensor;

/// An op that was applied, with what its backward needs.
struct Applied {
    op: Box<dyn Op>,
    inputs: Vec<Var>,
    saved: Vec<Tensor>,
    /// Whether the value is made again where backward reads it; the inputs are then held for that.
    again: bool,
}

/// The record of one forward pass.
pub struct Tape {
    gpu: Gpu,
    values: Vec<Value>,
    /// For each value the op that made it; none for a leaf.
    ops: Vec<Option<Applied>>,
    recomputes: bool,
    keeps: bool,
    /// Hooks with the buffers of the gradients that they are for.
    hooks: Vec<(BufferSlice, Rc<dyn GradientHook>)>,
}

impl Tape {
    /// An empty tape.
    pub fn new(gpu: &Gpu) -> Self {
        let (values, ops, hooks) = (Vec::new(), Vec::new(), Vec::new());
        Self { gpu: gpu.clone(), values, ops, recomputes: false, keeps: false, hooks }
    }

    /// With `true` the values of [`Tape::apply_recomputed`] are made again in backward rather than kept.
    pub fn recomputing(self, recomputes: bool) -> Self {
        Self { recomputes, ..self }
    }

    /// Keeps all values for whoever wants to look at them: [`Tape::release`] frees nothing.
    pub fn keeping(self) -> Self {
        Self { keeps: true, ..self }
    }

    /// Registers a hook for the parameter whose gradient goes to `gradient`; to be called before [`Tape::parameter`].
    pub fn hook(&mut self, gradient: &Tensor, hook: Rc<dyn GradientHook>) {
        self.hooks.push((gradient.into(), hook));
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn push(&mut self, tensor: Tensor, readers: usize, op: Option<Applied>) -> Var {
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        let needs_gradient = op.is_some();
        let tensor = Some(tensor);
        self.values.push(Value { tensor, shape, dtype, needs_gradient, readers, released: false, target: None });
        self.ops.push(op);
        Var(self.values.len() - 1)
    }

    /// A value without gradient.
    pub fn constant(&mut self, value: &Tensor) -> Var {
        self.push(value.clone(), 0, None)
    }

    /// A value whose gradient [`Tape::backward`] returns.
    pub fn variable(&mut self, value: &Tensor) -> Var {
        let var = self.push(value.clone(), 0, None);
        self.values[var.0].needs_gradient = true;
        var
    }

    /// A value whose gradient is written to `gradient`, or added to it if `accumulate`. The gradient may be f32 where the
    /// value is f16; of every other value it has the value's type.
    pub fn parameter(&mut self, value: &Tensor, gradient: &Tensor, accumulate: bool) -> Var {
        let var = self.variable(value);
        let own = BufferSlice::from(gradient);
        let same = |slice: &BufferSlice| {
            (slice.buffer.id(), slice.offset, slice.size) == (own.buffer.id(), own.offset, own.size)
        };
        let hook = self.hooks.iter().find(|(slice, _)| same(slice)).map(|(_, hook)| hook.clone());
        self.values[var.0].target = Some(Target { gradient: gradient.clone(), written: accumulate, hook });
        var
    }

    /// The tensor of a value.
    ///
    /// # Panics
    /// When the value was released and is freed: hold the tensor, or release later.
    pub fn value(&self, var: Var) -> &Tensor {
        self.values[var.0].tensor.as_ref().expect("a value that is read after its release")
    }

    /// Runs an op forward and records it.
    ///
    /// # Errors
    /// Those that [`Op::forward`] returns; [`Error::Shape`] when an input was released and is freed.
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Var> {
        self.record(Box::new(op), inputs, false)
    }

    /// As [`Tape::apply`], for a value that costs little beside the memory it takes: where the tape recomputes, it is freed
    /// when it is released, and what backward reads of it is made again from its inputs.
    ///
    /// # Errors
    /// As [`Tape::apply`].
    pub fn apply_recomputed(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Var> {
        self.record(Box::new(op), inputs, self.recomputes)
    }

    fn record(&mut self, op: Box<dyn Op>, inputs: &[Var], again: bool) -> Result<Var> {
        let Forward { output, saved } = op.forward(&self.tensors(op.name(), inputs)?)?;
        if !inputs.iter().any(|v| self.values[v.0].needs_gradient) {
            return Ok(self.push(output, 0, None));
        }
        let reads = op.reads();
        for (i, var) in inputs.iter().enumerate() {
            self.values[var.0].readers += usize::from(reads.input(i)) + usize::from(again);
        }
        let applied = Applied { op, inputs: inputs.to_vec(), saved, again };
        Ok(self.push(output, usize::from(reads.output()), Some(applied)))
    }

    fn tensors(&self, op: &'static str, inputs: &[Var]) -> Result<Vec<&Tensor>> {
        let value = |v: &Var| {
            let Value { tensor, shape, .. } = &self.values[v.0];
            tensor.as_ref().ok_or_else(|| Error::shape(op, "values that are not released", format!("{shape:?}, freed")))
        };
        inputs.iter().map(value).collect()
    }

    /// Says that the forward reads these values no more: what backward does not read either is freed.
    pub fn release(&mut self, vars: &[Var]) {
        if self.keeps {
            return;
        }
        for var in vars {
            let value = &mut self.values[var.0];
            value.released = true;
            if self.ops[var.0].as_ref().is_some_and(|applied| applied.again) {
                value.tensor = None;
            }
            self.settle(*var);
        }
    }

    /// Frees a value that nobody reads any more, and lets go of what it would have been made from.
    fn settle(&mut self, var: Var) {
        let value = &mut self.values[var.0];
        if !value.released || value.readers > 0 {
            return;
        }
        value.tensor = None;
        if let Some(Applied { again, inputs, .. }) = &mut self.ops[var.0]
            && std::mem::take(again)
        {
            let inputs = inputs.clone();
            self.unread(&inputs);
        }
    }

    /// Takes back one reading of each of these values.
    fn unread(&mut self, vars: &[Var]) {
        for &var in vars {
            self.values[var.0].readers -= 1;
            self.settle(var);
        }
    }

    /// Makes a value again that was freed for that.
    fn restore(&mut self, var: Var) -> Result<()> {
        if self.values[var.0].tensor.is_some() {
            return Ok(());
        }
        let inputs = self.ops[var.0].as_ref().map_or(Vec::new(), |applied| applied.inputs.clone());
        inputs.iter().try_for_each(|&input| self.restore(input))?;
        if let Some(Applied { op, .. }) = &self.ops[var.0] {
            let output = op.forward(&self.tensors(op.name(), &inputs)?)?.output;
            self.values[var.0].tensor = Some(output);
        }
        Ok(())
    }

    /// Bytes of the activations that are held for backward: values that it reads and what ops saved, each buffer once.
    /// Parameters and whatever else lives as long as the model does not count.
    pub fn held_bytes(&self) -> u64 {
        let mut buffers = BTreeMap::new();
        for (value, op) in self.values.iter().zip(&self.ops) {
            let saved = op.iter().flat_map(|applied| &applied.saved);
            for tensor in value.tensor.iter().filter(|_| value.readers > 0).chain(saved) {
                let BufferSlice { buffer, size, .. } = tensor.into();
                if buffer.is_pooled() {
                    let largest = buffers.entry(buffer.id()).or_insert(0);
                    *largest = size.max(*largest);
                }
            }
        }
        buffers.values().sum()
    }

    /// Propagates the gradients `seeds` (of the values named) to all leaves. Parameters that nothing reached get zero.
    ///
    /// # Errors
    /// [`Error::Shape`] when a seed does not fit its value; what [`Op::backward`] returns, and [`Op::forward`] of what is
    /// recomputed.
    pub fn backward(mut self, seeds: &[(Var, Tensor)]) -> Result<Gradients> {
        let mut slots: Vec<Option<Tensor>> = vec![None; self.values.len()];
        let mut returned = Gradients { by_var: Vec::new() };
        for (var, seed) in seeds {
            let Value { shape, dtype, .. } = self.values[var.0];
            if seed.shape() != shape || seed.dtype() != dtype {
                return Err(Error::shape("backward", format!("a seed of {dtype:?} {shape:?}"), format!("{seed:?}")));
            }
            accumulate(&mut slots[var.0], seed.clone())?;
        }
        for var in (0..self.values.len()).map(Var) {
            self.values[var.0].released = true;
            self.settle(var);
        }
        while let Some(slot) = slots.pop() {
            let var = Var(self.values.len() - 1);
            let read = self.read_by(var);
            if slot.is_some() {
                read.iter().try_for_each(|&value| self.restore(value))?;
            }
            let (Some(value), Some(applied)) = (self.values.pop(), self.ops.pop()) else { break };
            match (applied, value.target) {
                (Some(Applied { op, inputs, saved, again }), _) => {
                    if let Some(dy) = slot {
                        op.backward(&mut Backward {
                            gpu: self.gpu.clone(),
                            values: &mut self.values,
                            slots: &mut slots,
                            inputs: &inputs,
                            name: op.name(),
                            reads: op.reads(),
                            output: value.tensor,
                            saved,
                            dy: Some(dy),
                        })?;
                    }
                    let others: Vec<Var> = read.into_iter().filter(|&v| v != var).collect();
                    self.unread(&others);
                    if again {
                        self.unread(&inputs);
                    }
                }
                (None, Some(Target { gradient, written, .. })) => match slot {
                    Some(seed) if written => elementwise::add_into(&gradient, &seed)?,
                    Some(seed) => gradient.copy_from(&seed)?,
                    None if !written => gradient.clear()?,
                    None => {}
                },
                (None, None) => {
                    if let (Some(gradient), true) = (slot, value.needs_gradient) {
                        returned.by_var.push((var, gradient));
                    }
                }
            }
        }
        Ok(returned)
    }

    /// The values that the backward of `var`'s op reads.
    fn read_by(&self, var: Var) -> Vec<Var> {
        let Some(Applied { op, inputs, .. }) = &self.ops[var.0] else { return Vec::new() };
        let reads = op.reads();
        let inputs = inputs.iter().enumerate().filter(|(i, _)| reads.input(*i)).map(|(_, &v)| v);
        inputs.chain(reads.output().then_some(var)).collect()
    }
}
