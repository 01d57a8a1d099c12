//! Ops of one's own that are a function of one number, applied to each element: activations such as GELU.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts};
use crate::tensor::{DType, Tensor};

/// The kernels around a function `value` and its `derivative`, whose WGSL stands beside this.
#[doc(hidden)]
pub const WGSL: &str = "
    // needs: lib/grid.wgsl
    @group(0) @binding(0) var<uniform> params: Params;
    @group(0) @binding(1) var<storage, read> x: array<Real>;
    @group(0) @binding(2) var<storage, read_write> y: array<Real>;
    @group(0) @binding(3) var<storage, read> dy: array<Real>;
    @group(0) @binding(4) var<storage, read_write> dx: array<RealDx>;

    @compute @workgroup_size(64)
    fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
        let i = workgroup_index(group, groups) * 64u + lane;
        if i < params.count {
            y[i] = Real(value(f32(x[i])));
        }
    }

    // dx = f'(x) dy, added to what is there where the factor is 1
    @compute @workgroup_size(64)
    fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
        let i = workgroup_index(group, groups) * 64u + lane;
        if i < params.count {
            var gradient = derivative(f32(x[i])) * f32(dy[i]);
            if params.dx_factor != 0.0 {
                gradient += params.dx_factor * f32(dx[i]);
            }
            dx[i] = RealDx(gradient);
        }
    }
";

/// Threads of a workgroup, as in [`WGSL`].
const THREADS: u32 = 64;

crate::params! {
    struct ElementwiseOpParams { count: u32, dx_factor: f32 }
}

/// `y = f(x)`, element by element, made by [`elementwise!`](crate::elementwise). Input: x of any shape, in f32 or f16.
/// Output: of the same shape and type. A reference to it is the [`Op`]: `tape.apply(&GELU, &[x])`.
#[derive(Debug)]
pub struct Elementwise {
    forward: Kernel,
    backward: Kernel,
    reference: fn(f64) -> f64,
}

impl Elementwise {
    /// The op of these kernels; [`elementwise!`](crate::elementwise) calls it.
    #[doc(hidden)]
    pub const fn new(forward: Kernel, backward: Kernel, reference: fn(f64) -> f64) -> Self {
        Self {
            forward: forward.params::<ElementwiseOpParams>(),
            backward: backward.params::<ElementwiseOpParams>(),
            reference,
        }
    }
}

/// Makes an [`Elementwise`](crate::ops::Elementwise) op of a name, a WGSL source with the functions
/// `value(x: f32) -> f32` and `derivative(x: f32) -> f32`, and the function in f64, with which
/// [`check`](fn@crate::autograd::check::check) compares both. The source may have other functions and constants, with
/// other names than `params`, `x`, `y`, `dx` and `dy`.
///
/// ```
/// use sdmoe::Elementwise;
///
/// static SQUARE: Elementwise = sdmoe::elementwise!(
///     "square",
///     "fn value(x: f32) -> f32 { return x * x; }
///      fn derivative(x: f32) -> f32 { return 2.0 * x; }",
///     |x| x * x
/// );
/// ```
#[macro_export]
macro_rules! elementwise {
    ($name:literal, $wgsl:expr, $reference:expr $(,)?) => {{
        const SOURCES: &[&str] = &[$crate::ops::elementwise::WGSL, $wgsl];
        const FORWARD: $crate::Kernel = $crate::Kernel::new($name, SOURCES).entry("forward");
        const BACKWARD: $crate::Kernel = $crate::Kernel::new(concat!($name, "_backward"), SOURCES).entry("backward");
        $crate::Elementwise::new(FORWARD, BACKWARD, $reference)
    }};
}

impl Op for &'static Elementwise {
    fn name(&self) -> &'static str {
        self.forward.name
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [x] = inputs else { return Err(Error::shape(self.name(), "1 input", format!("{}", inputs.len()))) };
        if x.dtype() == DType::U32 {
            return Err(Error::shape(self.name(), "x of f32 or f16", format!("{x:?}")));
        }
        let op: &'static Elementwise = self;
        let (gpu, count) = (x.gpu(), x.numel());
        let y = Tensor::empty(gpu, x.shape(), x.dtype())?;
        let (flat_x, flat_y) = (x.reshape([count])?, y.reshape([count])?);
        for range in Parts::new(self.name(), count).sliced(gpu, &[1]).ranges()? {
            Launch::new(&op.forward)
                .params(&ElementwiseOpParams { count: range.len() as u32, dx_factor: 0.0 })
                .read("x", &flat_x.slice(range.clone())?)
                .write("y", &flat_y.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let op: &'static Elementwise = self;
        let (x, dy) = (pass.input(0), pass.dy());
        let (dx, dx_factor) = pass.target(0)?;
        let (gpu, count) = (x.gpu(), x.numel());
        let [x, dy, dx] = [x.reshape([count])?, dy.reshape([count])?, dx.reshape([count])?];
        for range in Parts::new(self.name(), count).sliced(gpu, &[1]).ranges()? {
            Launch::new(&op.backward)
                .params(&ElementwiseOpParams { count: range.len() as u32, dx_factor })
                .read("x", &x.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dx", &dx.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        inputs[0].map(|&x| (self.reference)(x))
    }
}
