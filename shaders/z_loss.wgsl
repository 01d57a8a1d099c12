// Router z-loss, one token a thread: the squares of the logits' logsumexp, and the gradient.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> normalizer: array<f32>;
@group(0) @binding(3) var<storage, read_write> term: array<f32>;
@group(0) @binding(4) var<storage, read> saved_normalizer: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> dlogits: array<f32>;

// normalizer = logsumexp(logits of the token); term = scale * normalizer^2
@compute @workgroup_size(WG)
fn z_loss(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let first = token * params.experts;
    let last = first + params.experts;
    var largest = logits[first];
    for (var i = first + 1u; i < last; i++) {
        largest = max(largest, logits[i]);
    }
    var sum = 0.0;
    for (var i = first; i < last; i++) {
        sum += exp(logits[i] - largest);
    }
    let total = largest + log(sum);
    normalizer[token] = total;
    term[token] = params.scale * total * total;
}

// d(scale z^2)/dl_e = 2 scale z exp(l_e - z)
@compute @workgroup_size(WG)
fn z_loss_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let z = saved_normalizer[token];
    let scale = 2.0 * params.scale * z * dy[0];
    for (var e = 0u; e < params.experts; e++) {
        let cell = token * params.experts + e;
        var gradient = scale * exp(logits[cell] - z);
        if params.factor != 0.0 {
            gradient += params.factor * dlogits[cell];
        }
        dlogits[cell] = gradient;
    }
}
