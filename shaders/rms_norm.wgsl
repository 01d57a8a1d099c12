// RMSNorm of rows: y = x r g with r = (mean(x^2) + eps)^(-1/2), and its gradient in x.
//
// needs: lib/grid.wgsl, pack, row

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read> weight: array<Pack>;
@group(0) @binding(3) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(4) var<storage, read_write> r_saved: array<f32>;
@group(0) @binding(5) var<storage, read> r: array<f32>;
@group(0) @binding(6) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(7) var<storage, read_write> dx: array<StoredPack>;

@compute @workgroup_size(WG)
fn rms_norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let row = row_index(group, groups, lane);
    if row >= params.rows {
        return;
    }
    let base = row * params.width;
    var squares = Pack();
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        let v = wide(x[base + i]);
        squares += v * v;
    }
    let mean = row_sum(pack_sum(squares), lane) / f32(params.width * PACK);
    let inverse = 1.0 / sqrt(mean + params.eps);
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        y[base + i] = narrow(wide(x[base + i]) * inverse * weight[i]);
    }
    if row_begin(lane) == 0u {
        r_saved[row] = inverse;
    }
}

// dx = r (dy g - x r^2 mean(dy g x)) + beta dx
@compute @workgroup_size(WG)
fn rms_norm_dx(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let row = row_index(group, groups, lane);
    if row >= params.rows {
        return;
    }
    let base = row * params.width;
    var products = Pack();
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        products += wide(dy[base + i]) * weight[i] * wide(x[base + i]);
    }
    let inverse = r[row];
    let mean = row_sum(pack_sum(products), lane) / f32(params.width * PACK);
    let share = inverse * inverse * mean;
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        var gradient = inverse * (wide(dy[base + i]) * weight[i] - wide(x[base + i]) * share);
        if params.beta != 0.0 {
            gradient += params.beta * wide(dx[base + i]);
        }
        dx[base + i] = narrow(gradient);
    }
}
