// One level of sums over the rows of a matrix: a row of y for each block of rows of x, summed in order; one (block, pack
// of columns) a thread.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read> r: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(4) var<storage, read_write> y: array<Pack>;

// y[block] = sum of dy x r over the block's rows: the first level of RMSNorm's weight gradient.
@compute @workgroup_size(WG)
fn rms_norm_dweight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let column = i % params.width;
    let first = i / params.width * params.block;
    var sum = Pack();
    for (var row = first; row < min(first + params.block, params.rows); row++) {
        let at = row * params.width + column;
        sum += wide(dy[params.dy_first + at]) * (wide(x[params.x_first + at]) * r[params.r_first + row]);
    }
    if first < params.rows {
        y[params.y_first + i] = sum;
    }
}

// y[block] = sum of x over the block's rows + beta y[block]
@compute @workgroup_size(WG)
fn column_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let first = i / params.width * params.block;
    if first >= params.rows {
        return;
    }
    var sum = Pack();
    for (var row = first; row < min(first + params.block, params.rows); row++) {
        sum += wide(x[params.x_first + row * params.width + i % params.width]);
    }
    if params.beta != 0.0 {
        sum += params.beta * y[params.y_first + i];
    }
    y[params.y_first + i] = sum;
}
