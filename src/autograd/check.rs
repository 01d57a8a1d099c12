//! One check for every op: its forward against its f64 reference, its backward against the reference's central
//! differences.
//!
//! With `L = <w, f(x)>` for random `w`, the gradient that the device gives for input `x` is compared with
//! `(L(x + h d) - L(x - h d)) / 2h` along random directions `d`, and along each axis where the input is small.

use std::rc::Rc;

use super::{Array, Op, Tape};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::tensor::{DType, Tensor};

/// An input of the op under test.
#[derive(Clone, Debug)]
pub enum Input {
    /// Differentiated.
    Tracked(Array),
    /// Differentiated, stored in f16 like its gradient: an activation of mixed precision. Rounded first.
    Half(Array),
    /// Differentiated, stored in f16 with its gradient in f32: a weight of mixed precision. Rounded first.
    HalfWeight(Array),
    /// f32, not differentiated.
    Frozen(Array),
    /// u32 indices.
    Index(Array),
}

impl Input {
    fn array(&self) -> &Array {
        match self {
            Input::Tracked(a) | Input::Half(a) | Input::HalfWeight(a) | Input::Frozen(a) | Input::Index(a) => a,
        }
    }

    fn is_half(&self) -> bool {
        matches!(self, Input::Half(_) | Input::HalfWeight(_))
    }

    /// The input that the device sees.
    fn seen(&self) -> Array {
        if self.is_half() { round_to_f16(self.array()) } else { self.array().clone() }
    }
}

fn round_to_f16(x: &Array) -> Array {
    x.map(|&v| f64::from(half::f16::from_f64(v)))
}

/// How far device and reference may differ, in units of the largest absolute value of what is compared.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// The tolerance of the output.
    pub forward: f64,
    /// The tolerance of a directional derivative, relative to `|gradient| |direction|`.
    pub backward: f64,
}

impl Default for Tolerance {
    /// A few dozen rounding errors of f32 (6e-8 each).
    fn default() -> Self {
        Self { forward: 2e-6, backward: 5e-6 }
    }
}

impl Tolerance {
    /// For what is stored in f16: `forward` and `backward` roundings of 2^-11, over what f32 is allowed.
    pub fn half(forward: f64, backward: f64) -> Self {
        let (f32, eps) = (Self::default(), f64::exp2(-11.0));
        Self { forward: f32.forward + forward * eps, backward: f32.backward + backward * eps }
    }
}

/// Axis-aligned directions are tried for inputs of at most this many elements.
const SMALL: usize = 48;
/// Random directions for each input.
const DIRECTIONS: u64 = 4;

/// How far the device is from the reference in one respect.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// The difference: of the worst element, or of a derivative; infinite where the device gave a number that is not finite.
    pub error: f64,
    /// The largest difference that is right.
    pub allowed: f64,
    /// Names the element, both values and the difference.
    pub message: String,
}

impl Deviation {
    /// Whether the difference is allowed; never where it is NaN.
    pub fn is_allowed(&self) -> bool {
        self.error <= self.allowed
    }

    fn check(self) -> Result<(), String> {
        if self.is_allowed() { Ok(()) } else { Err(self.message) }
    }
}

/// How far `got` is from `want`, of which each element may be off by `tolerance * max |want|`; `what` begins the message.
///
/// # Errors
/// A description of numbers of elements that differ.
pub fn deviation(what: &str, got: &[f32], want: &Array, tolerance: f64) -> Result<Deviation, String> {
    if got.len() != want.data.len() {
        return Err(format!("{what}: {} elements, expected {:?}", got.len(), want.shape));
    }
    let scale = want.max_abs();
    let worst = got
        .iter()
        .zip(&want.data)
        .map(|(&g, &w)| if g.is_finite() { (f64::from(g) - w).abs() } else { f64::INFINITY })
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let allowed = tolerance * scale + 1e-30;
    let Some((i, error)) = worst else { return Ok(Deviation { error: 0.0, allowed, message: String::new() }) };
    let message = format!(
        "{what} of {:?}: element {i} is {}, expected {}; off by {error:.3e}, allowed {:.3e}",
        want.shape,
        got[i],
        want.data[i],
        tolerance * scale
    );
    Ok(Deviation { error, allowed, message })
}

/// Compares `got` with `want`; the message names the worst element.
///
/// # Errors
/// A description of the largest difference, when it exceeds `tolerance * max |want|`, or of a shape mismatch or a
/// number that is not finite.
pub fn compare(what: &str, got: &[f32], want: &Array, tolerance: f64) -> Result<(), String> {
    deviation(what, got, want, tolerance)?.check()
}

/// Checks forward and backward of `op`.
///
/// # Errors
/// A description of the first failure; a device error as text.
pub async fn check(
    gpu: &Gpu,
    op: impl Op + 'static,
    inputs: &[Input],
    tolerance: Tolerance,
    seed: u64,
) -> Result<(), String> {
    let check = Check::new(op, inputs, seed);
    let given = check.run(gpu).await.map_err(|e| format!("{}: {e}", check.op.name()))?;
    check.deviations(&given, tolerance)?.into_iter().try_for_each(Deviation::check)
}

/// An op on inputs, with what the reference says of it: made once, and compared with what any device gives as often as wanted.
pub struct Check<T> {
    op: Rc<T>,
    inputs: Vec<Input>,
    seed: u64,
    /// The inputs as the device sees them.
    arrays: Vec<Array>,
    want: Array,
    /// The gradient of the output: the loss is its inner product with the output.
    weights: Array,
    derivatives: Vec<Derivative>,
}

/// The loss's derivative by an input along a direction.
struct Derivative {
    input: usize,
    want: f64,
    direction: Array,
}

/// The results of a device.
#[derive(Clone, Debug)]
pub struct Given {
    /// The output.
    pub output: Vec<f32>,
    /// The gradient of each input that has one.
    pub gradients: Vec<Option<Array>>,
}

impl<T: Op + 'static> Check<T> {
    /// Computes the reference of `op`: its output, and derivatives by central differences along directions that `seed` chooses.
    pub fn new(op: T, inputs: &[Input], seed: u64) -> Self {
        let arrays: Vec<Array> = inputs.iter().map(Input::seen).collect();
        let want = op.reference(&arrays);
        let mut weights = Array::random(&want.shape, seed ^ 0x5eed);
        if inputs.iter().any(Input::is_half) {
            weights = round_to_f16(&weights);
        }
        let loss = |arrays: &[Array]| op.reference(arrays).dot(&weights);
        let mut derivatives = Vec::new();
        for (i, input) in inputs.iter().enumerate() {
            let (Input::Tracked(_) | Input::Half(_) | Input::HalfWeight(_), x) = (input, &arrays[i]) else { continue };
            for d in directions(x, seed.wrapping_add(i as u64)) {
                let h = 1e-5 * x.max_abs().max(1e-3) / d.max_abs().max(1e-30);
                let shifted = |sign: f64| {
                    let mut moved = arrays.clone();
                    moved[i] = x.zip(&d, |a, b| a + sign * h * b);
                    loss(&moved)
                };
                let want = (shifted(1.0) - shifted(-1.0)) / (2.0 * h);
                derivatives.push(Derivative { input: i, want, direction: d });
            }
        }
        Self { op: Rc::new(op), inputs: inputs.to_vec(), seed, arrays, want, weights, derivatives }
    }

    /// Runs forward and backward on a device.
    ///
    /// # Errors
    /// Those of the op; [`crate::Error::Device`].
    pub async fn run(&self, gpu: &Gpu) -> Result<Given> {
        let mut tape = Tape::new(gpu);
        let mut vars = Vec::new();
        let mut weight_gradients = vec![None; self.inputs.len()];
        for (i, (input, a)) in self.inputs.iter().zip(&self.arrays).enumerate() {
            let stored = |dtype| {
                let tensor = Tensor::empty(gpu, &a.shape, dtype)?;
                tensor.write_f32(&a.to_f32()).map(|()| tensor)
            };
            let var = match input {
                Input::Index(_) => tape.constant(&Tensor::from_u32(gpu, &a.shape, &a.to_u32())?),
                Input::Frozen(_) => tape.constant(&Tensor::from_f32(gpu, &a.shape, &a.to_f32())?),
                Input::Tracked(_) => tape.variable(&stored(DType::F32)?),
                Input::Half(_) => tape.variable(&stored(DType::F16)?),
                Input::HalfWeight(_) => {
                    let gradient = Tensor::empty_f32(gpu, &a.shape)?;
                    weight_gradients[i] = Some(gradient.clone());
                    tape.parameter(&stored(DType::F16)?, &gradient, false)
                }
            };
            vars.push(var);
        }
        let output = tape.apply(self.op.clone(), &vars)?;
        let y = tape.value(output);
        let dy = Tensor::empty(gpu, y.shape(), y.dtype())?;
        let output_values = y.to_f32().await?;
        dy.write_f32(&self.weights.to_f32())?;
        let gradients = tape.backward(&[(output, dy)])?;
        let mut host: Vec<Option<Array>> = vec![None; self.inputs.len()];
        for (i, (x, var)) in self.arrays.iter().zip(&vars).enumerate() {
            if let Some(gradient) = weight_gradients[i].as_ref().or(gradients.of(*var)) {
                host[i] = Some(Array::from_f32(&x.shape, &gradient.to_f32().await?));
            }
        }
        Ok(Given { output: output_values, gradients: host })
    }

    /// How far what a device gave is from the reference: the output, then every derivative.
    ///
    /// # Errors
    /// A description of an output of another size, or of a gradient that is missing.
    pub fn deviations(&self, given: &Given, tolerance: Tolerance) -> Result<Vec<Deviation>, String> {
        let (name, seed) = (self.op.name(), self.seed);
        let what = format!("{name} forward (seed {seed})");
        let mut all = vec![deviation(&what, &given.output, &self.want, tolerance.forward)?];
        for Derivative { input, want, direction } in &self.derivatives {
            let gradient = given.gradients[*input].as_ref();
            let gradient = gradient.ok_or_else(|| format!("{name}: no gradient for input {input}"))?;
            let got = gradient.dot(direction);
            let allowed = tolerance.backward * gradient.norm() * direction.norm() + 1e-7 * want.abs() + 1e-9;
            let message = format!(
                "{name} backward (seed {seed}), input {input} of {:?}: derivative {got}, expected {want}; allowed {allowed:.3e}",
                gradient.shape
            );
            all.push(Deviation { error: (got - want).abs(), allowed, message });
        }
        Ok(all)
    }
}

fn directions(x: &Array, seed: u64) -> Vec<Array> {
    let mut all: Vec<Array> = (0..DIRECTIONS).map(|k| Array::random(&x.shape, seed * 31 + k)).collect();
    if x.data.len() <= SMALL {
        all.extend((0..x.data.len()).map(|j| Array::from_fn(&x.shape, |i| f64::from(u8::from(i == j)))));
    }
    all
}
