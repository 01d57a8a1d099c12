//! The tape: what was applied to what, which values backward still reads, and the reverse loop.
//!
//! A value lives while somebody reads it. The forward says when it is done with one ([`Tape::release`]); each op says what
//! its backward reads ([`Op::reads`]). A released value that no backward reads is freed at once, one that some do when the
//! last of them has run, and one of [`Tape::apply_recomputed`] at once as well: backward makes it again when it is asked
//! for, by the op that made it, hence with the same bits.

use std::collections::BTreeMap;

use super::backward::{Backward, Gradients, accumulate};
use super::op::{Forward, Op};
use crate::error::{Error, Result};
use crate::gpu::{BufferSlice, Gpu};
use crate::kernels::elementwise;
use crate::tensor::{DType, Shape, Tensor};

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub(super) usize);

pub(super) struct Node {
    /// None once it is freed.
    pub(super) value: Option<Tensor>,
    pub(super) shape: Shape,
    pub(super) dtype: DType,
    pub(super) needs_gradient: bool,
    /// How often backward will read the value: by the ops that it went into, by its own, to make others again.
    readers: usize,
    /// Whether the forward is done with it.
    released: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Leaf,
    /// A leaf whose gradient goes to `gradient`, on top of what is there if `written`.
    Parameter {
        gradient: Tensor,
        written: bool,
    },
    Op {
        op: Box<dyn Op>,
        inputs: Vec<Var>,
        saved: Vec<Tensor>,
        /// Whether the value is made again where backward reads it; the inputs are then held for that.
        again: bool,
    },
}

/// The record of one forward pass.
pub struct Tape {
    gpu: Gpu,
    nodes: Vec<Node>,
    recomputes: bool,
    keeps: bool,
}

impl Tape {
    /// An empty tape.
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), nodes: Vec::new(), recomputes: false, keeps: false }
    }

    /// With `true` the values of [`Tape::apply_recomputed`] are made again in backward rather than kept.
    pub fn recomputing(self, recomputes: bool) -> Self {
        Self { recomputes, ..self }
    }

    /// Keeps all values for whoever wants to look at them: [`Tape::release`] frees nothing.
    pub fn keeping(self) -> Self {
        Self { keeps: true, ..self }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn push(&mut self, value: Tensor, needs_gradient: bool, readers: usize, kind: Kind) -> Var {
        let (shape, dtype) = (value.shape(), value.dtype());
        self.nodes.push(Node { value: Some(value), shape, dtype, needs_gradient, readers, released: false, kind });
        Var(self.nodes.len() - 1)
    }

    /// A value without gradient.
    pub fn constant(&mut self, value: &Tensor) -> Var {
        self.push(value.clone(), false, 0, Kind::Leaf)
    }

    /// A value whose gradient [`Tape::backward`] returns.
    pub fn variable(&mut self, value: &Tensor) -> Var {
        self.push(value.clone(), true, 0, Kind::Leaf)
    }

    /// A value whose gradient is written to `gradient`, or added to it if `accumulate`. The gradient may be f32 where the
    /// value is f16; of every other value it has the value's type.
    pub fn parameter(&mut self, value: &Tensor, gradient: &Tensor, accumulate: bool) -> Var {
        self.push(value.clone(), true, 0, Kind::Parameter { gradient: gradient.clone(), written: accumulate })
    }

    /// The tensor of a value.
    ///
    /// # Panics
    /// When the value was released and is freed: hold the tensor, or release later.
    pub fn value(&self, var: Var) -> &Tensor {
        self.nodes[var.0].value.as_ref().expect("a value that is read after its release")
    }

    /// Runs an op forward and records it.
    ///
    /// # Errors
    /// What [`Op::forward`] returns; [`Error::Shape`] when an input was released and is freed.
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
        let Forward { output, saved } = op.forward(&self.values(op.name(), inputs)?)?;
        if !inputs.iter().any(|v| self.nodes[v.0].needs_gradient) {
            return Ok(self.push(output, false, 0, Kind::Leaf));
        }
        let reads = op.reads();
        for (i, var) in inputs.iter().enumerate() {
            self.nodes[var.0].readers += usize::from(reads.input(i)) + usize::from(again);
        }
        let kind = Kind::Op { op, inputs: inputs.to_vec(), saved, again };
        Ok(self.push(output, true, usize::from(reads.output()), kind))
    }

    fn values(&self, op: &'static str, inputs: &[Var]) -> Result<Vec<&Tensor>> {
        let value = |v: &Var| {
            let Node { value, shape, .. } = &self.nodes[v.0];
            value.as_ref().ok_or_else(|| Error::shape(op, "values that are not released", format!("{shape:?}, freed")))
        };
        inputs.iter().map(value).collect()
    }

    /// Says that the forward reads these values no more: what backward does not read either is freed.
    pub fn release(&mut self, vars: &[Var]) {
        if self.keeps {
            return;
        }
        for var in vars {
            let node = &mut self.nodes[var.0];
            node.released = true;
            if let Kind::Op { again: true, .. } = node.kind {
                node.value = None;
            }
            self.settle(*var);
        }
    }

    /// Frees a value that nobody reads any more, and lets go of what it would have been made from.
    fn settle(&mut self, var: Var) {
        let node = &mut self.nodes[var.0];
        if !node.released || node.readers > 0 {
            return;
        }
        node.value = None;
        if let Kind::Op { again, inputs, .. } = &mut node.kind
            && std::mem::take(again)
        {
            let inputs = inputs.clone();
            self.unread(&inputs);
        }
    }

    /// Takes back one reading of each of these values.
    fn unread(&mut self, vars: &[Var]) {
        for &var in vars {
            self.nodes[var.0].readers -= 1;
            self.settle(var);
        }
    }

    /// Makes a value again that was freed for that.
    fn restore(&mut self, var: Var) -> Result<()> {
        if self.nodes[var.0].value.is_some() {
            return Ok(());
        }
        let inputs = match &self.nodes[var.0].kind {
            Kind::Op { inputs, .. } => inputs.clone(),
            _ => Vec::new(),
        };
        inputs.iter().try_for_each(|&input| self.restore(input))?;
        if let Kind::Op { op, .. } = &self.nodes[var.0].kind {
            let output = op.forward(&self.values(op.name(), &inputs)?)?.output;
            self.nodes[var.0].value = Some(output);
        }
        Ok(())
    }

    /// Bytes of the activations that are held for backward: values that it reads and what ops saved, each buffer once.
    /// Parameters and whatever else lives as long as the model does not count.
    pub fn held_bytes(&self) -> u64 {
        let mut buffers = BTreeMap::new();
        for node in &self.nodes {
            let saved = if let Kind::Op { saved, .. } = &node.kind { saved.as_slice() } else { &[] };
            for tensor in node.value.iter().filter(|_| node.readers > 0).chain(saved) {
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
        let mut slots: Vec<Option<Tensor>> = vec![None; self.nodes.len()];
        let mut returned = Gradients { by_var: Vec::new() };
        for (var, seed) in seeds {
            let Node { shape, dtype, .. } = self.nodes[var.0];
            if seed.shape() != shape || seed.dtype() != dtype {
                return Err(Error::shape("backward", format!("a seed of {dtype:?} {shape:?}"), format!("{seed:?}")));
            }
            accumulate(&mut slots[var.0], seed.clone())?;
        }
        for var in (0..self.nodes.len()).map(Var) {
            self.nodes[var.0].released = true;
            self.settle(var);
        }
        while let Some(slot) = slots.pop() {
            let var = Var(self.nodes.len() - 1);
            let read = self.read_by(var);
            if slot.is_some() {
                read.iter().try_for_each(|&value| self.restore(value))?;
            }
            let Some(node) = self.nodes.pop() else { break };
            match node.kind {
                Kind::Leaf => {
                    if let (Some(gradient), true) = (slot, node.needs_gradient) {
                        returned.by_var.push((var, gradient));
                    }
                }
                Kind::Parameter { gradient, written } => match slot {
                    Some(seed) if written => elementwise::add_into(&gradient, &seed)?,
                    Some(seed) => gradient.copy_from(&seed)?,
                    None if !written => gradient.clear()?,
                    None => {}
                },
                Kind::Op { op, inputs, saved, again } => {
                    if let Some(dy) = slot {
                        let nodes = &mut self.nodes;
                        Backward::run(&*op, nodes, &mut slots, &inputs, node.value, saved, dy)?;
                    }
                    let others: Vec<Var> = read.into_iter().filter(|&v| v != var).collect();
                    self.unread(&others);
                    if again {
                        self.unread(&inputs);
                    }
                }
            }
        }
        Ok(returned)
    }

    /// The values that the backward of `var`'s op reads.
    fn read_by(&self, var: Var) -> Vec<Var> {
        let Kind::Op { op, inputs, .. } = &self.nodes[var.0].kind else { return Vec::new() };
        let reads = op.reads();
        let inputs = inputs.iter().enumerate().filter(|(i, _)| reads.input(*i)).map(|(_, &v)| v);
        inputs.chain(reads.output().then_some(var)).collect()
    }
}
