// One level of the sums over the rows of a matrix: y[b, c] = sum of x[r, c] over the block's rows, in order; one (block,
// column) a thread. Needs lib/grid.wgsl.

override WG: u32 = 64;

struct Params {
    rows: u32,
    columns: u32,
    block: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG)
fn column_sums(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let cell = workgroup_index(group, groups) * WG + lane;
    let first = cell / params.columns * params.block;
    if first >= params.rows {
        return;
    }
    let last = min(first + params.block, params.rows);
    let column = cell % params.columns;
    var sum = 0.0;
    for (var row = first; row < last; row++) {
        sum += x[row * params.columns + column];
    }
    y[cell] = sum;
}
