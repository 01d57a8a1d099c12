// Load-balance loss from the columns' sums of the scores and the experts' counts, and its gradient.
//
// needs: lib/grid.wgsl, lib/row_workgroup.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dscores: array<f32>;

// loss = scale * sum_e counts_e * sums_e. One workgroup.
@compute @workgroup_size(WG)
fn load_balance(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var e = lane; e < params.experts; e += WG) {
        sum += f32(counts[e]) * sums[e];
    }
    sum = row_sum(sum, lane);
    if lane == 0u && workgroup_index(group, groups) == 0u {
        loss[0] = params.scale * sum;
    }
}

// dscores[t, e] = scale * counts_e * dy. One token a thread.
@compute @workgroup_size(WG)
fn load_balance_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let scale = params.scale * dy[0];
    for (var e = 0u; e < params.experts; e++) {
        let cell = token * params.experts + e;
        var gradient = scale * f32(counts[e]);
        if params.factor != 0.0 {
            gradient += params.factor * dscores[cell];
        }
        dscores[cell] = gradient;
    }
}
