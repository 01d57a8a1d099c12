//! The tape, the op trait and the gradients that flow back.

use super::Array;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::elementwise;
use crate::tensor::{DType, Tensor};

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(usize);

/// What an op's forward gives.
pub struct Forward {
    /// The result.
    pub output: Tensor,
    /// What backward needs besides inputs and output.
    pub saved: Vec<Tensor>,
}

impl From<Tensor> for Forward {
    fn from(output: Tensor) -> Self {
        Forward { output, saved: Vec::new() }
    }
}

/// A differentiable operation with one output.
///
/// Inputs of type u32 are indices and never differentiated; whatever else is discrete or frozen (chosen experts, spectral
/// bases) is an input that the caller puts on the tape with [`Tape::constant`].
pub trait Op {
    /// The name in errors.
    fn name(&self) -> &'static str;

    /// Checks the shapes and records the forward kernels.
    ///
    /// # Errors
    /// [`Error::Shape`] when the inputs do not fit each other; [`Error::Device`].
    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward>;

    /// Records the backward kernels: for each input that [`Backward::needs`] a gradient, either writes it into
    /// [`Backward::target`] or hands a tensor to [`Backward::add`].
    ///
    /// # Errors
    /// [`Error::Device`].
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()>;

    /// The forward in f64 on the CPU.
    fn reference(&self, inputs: &[Array]) -> Array;
}

struct Node {
    value: Tensor,
    needs_gradient: bool,
    kind: Kind,
}

enum Kind {
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
    },
}

/// The record of one forward pass.
pub struct Tape {
    gpu: Gpu,
    nodes: Vec<Node>,
}

impl Tape {
    /// An empty tape.
    pub fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), nodes: Vec::new() }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn push(&mut self, value: Tensor, needs_gradient: bool, kind: Kind) -> Var {
        self.nodes.push(Node { value, needs_gradient, kind });
        Var(self.nodes.len() - 1)
    }

    /// A value without gradient.
    pub fn constant(&mut self, value: &Tensor) -> Var {
        self.push(value.clone(), false, Kind::Leaf)
    }

    /// A value whose gradient [`Tape::backward`] returns.
    pub fn variable(&mut self, value: &Tensor) -> Var {
        self.push(value.clone(), true, Kind::Leaf)
    }

    /// A value whose gradient is written to `gradient`, or added to it if `accumulate`. The gradient may be f32 where the
    /// value is f16; of every other value it has the value's type.
    pub fn parameter(&mut self, value: &Tensor, gradient: &Tensor, accumulate: bool) -> Var {
        self.push(value.clone(), true, Kind::Parameter { gradient: gradient.clone(), written: accumulate })
    }

    /// The tensor of a value.
    pub fn value(&self, var: Var) -> &Tensor {
        &self.nodes[var.0].value
    }

    /// Runs an op forward and records it.
    ///
    /// # Errors
    /// What [`Op::forward`] returns.
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Var]) -> Result<Var> {
        let tensors: Vec<&Tensor> = inputs.iter().map(|v| &self.nodes[v.0].value).collect();
        let Forward { output, saved } = op.forward(&tensors)?;
        let needs = inputs.iter().any(|v| self.nodes[v.0].needs_gradient);
        let kind = if needs { Kind::Op { op: Box::new(op), inputs: inputs.to_vec(), saved } } else { Kind::Leaf };
        Ok(self.push(output, needs, kind))
    }

    /// Propagates the gradients `seeds` (of the values named) to all leaves. Parameters that nothing reached get zero.
    ///
    /// # Errors
    /// [`Error::Shape`] when a seed does not fit its value; what [`Op::backward`] returns.
    pub fn backward(mut self, seeds: &[(Var, Tensor)]) -> Result<Gradients> {
        let mut slots: Vec<Option<Tensor>> = vec![None; self.nodes.len()];
        let mut returned = Gradients { by_var: Vec::new() };
        for (var, seed) in seeds {
            let value = &self.nodes[var.0].value;
            if seed.shape() != value.shape() || seed.dtype() != value.dtype() {
                return Err(Error::shape("backward", format!("a seed of {value:?}"), format!("{seed:?}")));
            }
            accumulate(&mut slots[var.0], seed.clone())?;
        }
        while let Some(node) = self.nodes.pop() {
            let slot = slots.pop().flatten();
            match node.kind {
                Kind::Leaf => {
                    if let (Some(gradient), true) = (slot, node.needs_gradient) {
                        returned.by_var.push((Var(self.nodes.len()), gradient));
                    }
                }
                Kind::Parameter { gradient, written } => match slot {
                    Some(seed) if written => elementwise::add_into(&gradient, &seed)?,
                    Some(seed) => gradient.copy_from(&seed)?,
                    None if !written => gradient.clear()?,
                    None => {}
                },
                Kind::Op { op, inputs, saved } => {
                    let Some(dy) = slot else { continue };
                    let mut pass = Backward {
                        nodes: &mut self.nodes,
                        slots: &mut slots,
                        inputs: &inputs,
                        output: node.value,
                        saved,
                        dy: Some(dy),
                    };
                    op.backward(&mut pass)?;
                }
            }
        }
        Ok(returned)
    }
}

/// The gradients of the [`Tape::variable`]s.
#[derive(Debug)]
pub struct Gradients {
    by_var: Vec<(Var, Tensor)>,
}

impl Gradients {
    /// The gradient of a variable; none if nothing reached it.
    pub fn of(&self, var: Var) -> Option<&Tensor> {
        self.by_var.iter().find(|(v, _)| *v == var).map(|(_, gradient)| gradient)
    }
}

/// One op's backward: what it has and where its gradients go.
pub struct Backward<'a> {
    nodes: &'a mut [Node],
    slots: &'a mut [Option<Tensor>],
    inputs: &'a [Var],
    output: Tensor,
    saved: Vec<Tensor>,
    dy: Option<Tensor>,
}

impl Backward<'_> {
    /// Input `i`.
    pub fn input(&self, i: usize) -> Tensor {
        self.nodes[self.inputs[i].0].value.clone()
    }

    /// The output.
    pub fn output(&self) -> &Tensor {
        &self.output
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
        let node = &self.nodes[self.inputs[i].0];
        node.needs_gradient && node.value.dtype() != DType::U32
    }

    /// Where to write the gradient of input `i`, and the factor (0 or 1) on what is there already: a kernel computes
    /// `target = gradient + factor * target`. To be called once for an input, and then to be written for certain, before
    /// the next call: two inputs may be the same value. Where one kernel writes two gradients, use [`Backward::add`].
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn target(&mut self, i: usize) -> Result<(Tensor, f32)> {
        let var = self.inputs[i].0;
        if let Kind::Parameter { gradient, written } = &mut self.nodes[var].kind {
            let factor = if std::mem::replace(written, true) { 1.0 } else { 0.0 };
            return Ok((gradient.clone(), factor));
        }
        let value = &self.nodes[var].value;
        let slot = &mut self.slots[var];
        let (tensor, factor) = match slot.take() {
            None => (Tensor::empty(value.gpu(), value.shape(), value.dtype())?, 0.0),
            Some(tensor) if tensor.is_unique() => (tensor, 1.0),
            Some(shared) => (shared.duplicate()?, 1.0),
        };
        *slot = Some(tensor.clone());
        Ok((tensor, factor))
    }

    /// Adds `gradient` to the gradient of input `i`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn add(&mut self, i: usize, gradient: Tensor) -> Result<()> {
        let var = self.inputs[i].0;
        if let Kind::Parameter { gradient: target, written } = &mut self.nodes[var].kind {
            return if std::mem::replace(written, true) {
                elementwise::add_into(target, &gradient)
            } else {
                target.copy_from(&gradient)
            };
        }
        let shape = self.nodes[var].value.shape();
        accumulate(&mut self.slots[var], gradient.reshape(shape)?)
    }
}

fn accumulate(slot: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
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
