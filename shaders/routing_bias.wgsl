// Loss-free load balancing (DeepSeek-V3): bias += step * sign(mean count - count). One workgroup.

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> bias: array<f32>;

@compute @workgroup_size(WG)
fn routing_bias(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x + group.y > 0u {
        return;
    }
    var total = 0u;
    for (var e = 0u; e < params.experts; e++) {
        total += counts[e];
    }
    // In integers: count < mean is count < total / E, or count = floor(total / E) and a remainder.
    let mean = total / params.experts;
    let remainder = total % params.experts;
    for (var e = lane; e < params.experts; e += WG) {
        let count = counts[e];
        if count > mean {
            bias[e] -= params.step;
        } else if count < mean || remainder > 0u {
            bias[e] += params.step;
        }
    }
}
