// Combine weights of the chosen experts, one token a thread.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

// Keeps a sum of vanished scores from dividing by zero.
const EPSILON: f32 = 1e-20;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> index: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dscores: array<f32>;

@compute @workgroup_size(WG)
fn combine_weights(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let row = token * params.experts;
    let first = token * params.top_k;
    var scale = params.scaling;
    if params.renormalize != 0u {
        var sum = EPSILON;
        for (var j = 0u; j < params.top_k; j++) {
            sum += scores[row + index[first + j]];
        }
        scale /= sum;
    }
    for (var j = 0u; j < params.top_k; j++) {
        weights[first + j] = scale * scores[row + index[first + j]];
    }
}

// dw_j/ds_i = c (delta_ij - s_j / S) / S with S = sum of the chosen + epsilon; without renormalisation c delta_ij.
@compute @workgroup_size(WG)
fn combine_weights_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let row = token * params.experts;
    let first = token * params.top_k;
    var scale = params.scaling;
    var mean = 0.0;
    if params.renormalize != 0u {
        var sum = EPSILON;
        for (var j = 0u; j < params.top_k; j++) {
            sum += scores[row + index[first + j]];
        }
        // Taken relative to the first dy: with one expert a token, p / p = 1 and the gradient is exactly 0.
        mean = dy[first];
        for (var j = 1u; j < params.top_k; j++) {
            mean += scores[row + index[first + j]] / sum * (dy[first + j] - dy[first]);
        }
        scale /= sum;
    }
    if params.factor == 0.0 {
        for (var e = 0u; e < params.experts; e++) {
            dscores[row + e] = 0.0;
        }
    }
    for (var j = 0u; j < params.top_k; j++) {
        dscores[row + index[first + j]] += scale * (dy[first + j] - mean);
    }
}
