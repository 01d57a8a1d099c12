// Elementwise kernels over whole tensors. Needs lib/grid.wgsl.
//
// Threads take four elements each: vec4 loads run twice as fast as scalar ones on software adapters. Tensors whose
// length is not a multiple of 4 are padded by their buffers, never by their bindings, so the last elements go one by one.

override WG: u32 = 64;

struct Params {
    count: u32,
    alpha: f32,
    beta: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

// y = alpha x + beta y; where beta is 0, y is not read: it may hold anything, NaN included.
@compute @workgroup_size(WG)
fn axpby(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let first = (workgroup_index(group, groups) * WG + lane) * 4u;
    let last = min(first + 4u, params.count);
    for (var i = first; i < last; i++) {
        var sum = params.alpha * x[i];
        if params.beta != 0.0 {
            sum += params.beta * y[i];
        }
        y[i] = sum;
    }
}

// y = alpha
@compute @workgroup_size(WG)
fn fill(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let first = (workgroup_index(group, groups) * WG + lane) * 4u;
    let last = min(first + 4u, params.count);
    for (var i = first; i < last; i++) {
        y[i] = params.alpha;
    }
}
