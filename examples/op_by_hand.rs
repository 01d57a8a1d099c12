//! An op of one's own by the trait [`Op`]: its WGSL, its backward, its f64 reference, and the check that compares them.
//! A function of single elements needs less: `custom_op.rs`.

use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::prelude::*;

const WGSL: &str = "
    @group(0) @binding(0) var<uniform> params: Params;
    @group(0) @binding(1) var<storage, read> x: array<f32>;
    @group(0) @binding(2) var<storage, read> dy: array<f32>;
    @group(0) @binding(3) var<storage, read_write> result: array<f32>;
    // A grid of many workgroups has two dimensions.
    @compute @workgroup_size(64)
    fn square(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
        let i = id.x + id.y * groups.x * 64;
        if i < params.count { result[i] = x[i] * x[i]; }
    }
    @compute @workgroup_size(64)
    fn square_backward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
        let i = id.x + id.y * groups.x * 64;
        if i < params.count { result[i] = 2.0 * x[i] * dy[i]; }
    }
";
static SQUARE: Kernel = Kernel::new("square", &[WGSL]).params::<SquareParams>();
static SQUARE_BACKWARD: Kernel = Kernel::new("square_backward", &[WGSL]).params::<SquareParams>();

params! { struct SquareParams { count: u32 } }

/// `y = x * x`, element by element.
struct Square;

impl Op for Square {
    fn name(&self) -> &'static str {
        "square"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let x = inputs[0];
        let y = Tensor::empty_f32(x.gpu(), x.shape())?;
        let params = SquareParams { count: x.numel() as u32 };
        Launch::new(&SQUARE).params(&params).read("x", x).write("result", &y).threads(x.numel(), 64).run(x.gpu())?;
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        // dx = 2 x dy
        let (x, dy) = (pass.input(0), pass.dy());
        let dx = Tensor::empty_f32(x.gpu(), x.shape())?;
        let params = SquareParams { count: x.numel() as u32 };
        Launch::new(&SQUARE_BACKWARD)
            .params(&params)
            .read("x", &x)
            .read("dy", &dy)
            .write("result", &dx)
            .threads(x.numel(), 64)
            .run(x.gpu())?;
        pass.add(0, dx)
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        inputs[0].map(|x| x * x)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(async {
        let gpu = Gpu::open(&GpuOptions::default()).await?;
        for n in [1, 63, 64, 65, 1000] {
            let x = Input::Tracked(Array::random(&[n], n as u64));
            check(&gpu, Square, &[x], Tolerance::default(), n as u64).await?;
            println!("square of {n} numbers: forward and backward agree with the reference");
        }
        Ok(())
    })
}
