// C = alpha op(A) op(B) + beta C, one element of C a thread: the form that needs nothing optional.
// Needs lib/grid.wgsl.
//
// A batch of matrices; operand X has `batch / x_repeat` of them, each used `x_repeat` times in a row.

override WG: u32 = 64;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    batch: u32,
    a_repeat: u32,
    b_repeat: u32,
    a_transposed: u32,
    b_transposed: u32,
    alpha: f32,
    beta: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

@compute @workgroup_size(WG)
fn gemm_plain(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let element = workgroup_index(group, groups) * WG + lane;
    let size = params.m * params.n;
    if element >= size * params.batch {
        return;
    }
    let matrix = element / size;
    let row = element % size / params.n;
    let column = element % params.n;
    let a_base = matrix / params.a_repeat * (params.m * params.k);
    let b_base = matrix / params.b_repeat * (params.k * params.n);
    let a_first = a_base + select(row * params.k, row, params.a_transposed != 0u);
    let a_step = select(1u, params.m, params.a_transposed != 0u);
    let b_first = b_base + select(column, column * params.k, params.b_transposed != 0u);
    let b_step = select(params.n, 1u, params.b_transposed != 0u);
    var sum = 0.0;
    for (var i = 0u; i < params.k; i++) {
        sum += a[a_first + i * a_step] * b[b_first + i * b_step];
    }
    sum *= params.alpha;
    // Where beta is 0, C may hold anything, NaN included.
    if params.beta != 0.0 {
        sum += params.beta * c[element];
    }
    c[element] = sum;
}
