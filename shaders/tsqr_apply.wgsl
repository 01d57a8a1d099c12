// One level of a tall-skinny QR: each block's Q times its part of the Q of the stacked R factors.
//
// local_q: [batch, rows, columns], top_q: [batch, blocks * columns, columns], q: [batch, rows, columns]; a thread makes
// one element. Rows belong to blocks as in householder.wgsl.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> local_q: array<f32>;
@group(0) @binding(2) var<storage, read> top_q: array<f32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;

@compute @workgroup_size(WG)
fn tsqr_apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let element = workgroup_index(group, groups) * WG + lane;
    let n = params.columns;
    if element >= params.batch * params.rows * n {
        return;
    }
    let row = element / n;
    let column = element % n;
    let matrix = row / params.rows;
    let block = min(row % params.rows / params.block_rows, params.blocks - 1u);
    let top = (matrix * params.blocks + block) * n * n + column;
    var sum = 0.0;
    for (var i = 0u; i < n; i++) {
        sum += local_q[row * n + i] * top_q[top + i * n];
    }
    q[element] = sum;
}
