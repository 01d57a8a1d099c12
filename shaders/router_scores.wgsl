// Router scores from logits, one token a thread: softmax over all experts, or the sigmoid of each.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;
@group(0) @binding(3) var<storage, read> y: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read_write> dlogits: array<f32>;

@compute @workgroup_size(WG)
fn router_scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let first = token * params.experts;
    let last = first + params.experts;
    if params.sigmoid != 0u {
        for (var i = first; i < last; i++) {
            // The bound keeps exp finite; sigmoid(-80) is 2e-35.
            scores[i] = 1.0 / (1.0 + exp(min(-logits[i], 80.0)));
        }
        return;
    }
    var largest = logits[first];
    for (var i = first + 1u; i < last; i++) {
        largest = max(largest, logits[i]);
    }
    var sum = 0.0;
    for (var i = first; i < last; i++) {
        let power = exp(logits[i] - largest);
        scores[i] = power;
        sum += power;
    }
    let scale = 1.0 / sum;
    for (var i = first; i < last; i++) {
        scores[i] *= scale;
    }
}

@compute @workgroup_size(WG)
fn router_scores_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                          @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let first = token * params.experts;
    let last = first + params.experts;
    var mean = 0.0;
    if params.sigmoid == 0u {
        for (var i = first; i < last; i++) {
            mean += dy[i] * y[i];
        }
    }
    for (var i = first; i < last; i++) {
        // softmax: ds_i/dl_j = s_i (delta_ij - s_j);  sigmoid: ds/dl = s (1 - s)
        var gradient = y[i] * (dy[i] - mean);
        if params.sigmoid != 0u {
            gradient = y[i] * (1.0 - y[i]) * dy[i];
        }
        if params.factor != 0.0 {
            gradient += params.factor * dlogits[i];
        }
        dlogits[i] = gradient;
    }
}
