// Sums over rows in two stages of fixed order: blocks of rows, then their sums. Needs lib/grid.wgsl, lib/pack_*.wgsl.

override WG: u32 = 64;

struct Params {
    rows: u32,
    // of a row, in packs
    width: u32,
    // rows that one thread sums
    block: u32,
    beta: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> r: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<Pack>;
@group(0) @binding(4) var<storage, read_write> y: array<Pack>;

// Row and column of the thread's output, one row of y for each block of rows.
fn output_index(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> vec2<u32> {
    let i = workgroup_index(group, groups) * WG + lane;
    return vec2(i / params.width, i % params.width);
}

// y[block] = sum of dy x r over the block's rows: RMSNorm's weight gradient, first stage.
@compute @workgroup_size(WG)
fn rms_norm_dweight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let at = output_index(group, groups, lane);
    let first = at.x * params.block;
    if first >= params.rows {
        return;
    }
    var sum = Pack();
    for (var row = first; row < min(first + params.block, params.rows); row++) {
        sum += dy[row * params.width + at.y] * (x[row * params.width + at.y] * r[row]);
    }
    y[at.x * params.width + at.y] = sum;
}

// y[block] = sum of x over the block's rows + beta y[block]
@compute @workgroup_size(WG)
fn column_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let at = output_index(group, groups, lane);
    let first = at.x * params.block;
    if first >= params.rows {
        return;
    }
    var sum = Pack();
    for (var row = first; row < min(first + params.block, params.rows); row++) {
        sum += x[row * params.width + at.y];
    }
    let out = at.x * params.width + at.y;
    if params.beta != 0.0 {
        sum += params.beta * y[out];
    }
    y[out] = sum;
}
