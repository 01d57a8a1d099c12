// The second stage of the gradient norm, in one workgroup, and the clipping factor.

const WG: u32 = 256;

struct Params {
    slots: u32,
    clip: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> clip: array<f32>;

var<workgroup> sums: array<f32, WG>;

// clip = [norm, min(1, limit / (norm + 1e-6)), 0, 0]; where the norm is not finite [what it is, 0, 1, 0].
@compute @workgroup_size(WG)
fn clip_scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.slots; i += WG) {
        sum += partials[i];
    }
    sums[lane] = sum;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            sums[lane] += sums[lane + half];
        }
    }
    if lane != 0u || group.x != 0u {
        return;
    }
    let total = sums[0];
    // By the bits: a compiler may assume that no number is NaN or infinite.
    let failed = (bitcast<u32>(total) & 0x7f800000u) == 0x7f800000u;
    let norm = sqrt(max(total, 0.0));
    var scale = 1.0;
    if params.clip > 0.0 {
        scale = min(1.0, params.clip / (norm + 1e-6));
    }
    clip[0] = select(norm, total, failed);
    clip[1] = select(scale, 0.0, failed);
    clip[2] = select(0.0, 1.0, failed);
    clip[3] = 0.0;
}
