// The second stage of the gradient norm, in one workgroup, and the clipping factor; with it the loss scale of mixed
// precision, by which all gradients are too large.

const WG: u32 = 256;
// At 1 a failure is the gradients' own. 2^24 lifts what is 1e-7 of f16's smallest normal number into its range.
const LEAST_SCALE: f32 = 1.0;
const LARGEST_SCALE: f32 = 16777216.0;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read_write> clip: array<f32>;
// loss scale, good steps since it changed, failed steps of the run
@group(0) @binding(3) var<storage, read_write> scaling: array<f32>;

var<workgroup> sums: array<f32, WG>;

fn sum_of_partials(lane: u32) -> f32 {
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
    return sums[0];
}

// By the bits: a compiler may assume that no number is NaN or infinite.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// clip = [norm, min(1, limit / (norm + 1e-6)) / loss_scale, 0, ..] with the norm that the gradients have without the loss
// scale; where it is not finite [what the sum of squares is, 0, 1, ..].
fn decide(total: f32, loss_scale: f32) {
    let failed = !is_finite(total);
    let norm = sqrt(max(total, 0.0)) / loss_scale;
    var scale = 1.0;
    if params.clip > 0.0 {
        scale = min(1.0, params.clip / (norm + 1e-6));
    }
    clip[0] = select(norm, total, failed);
    clip[1] = select(scale / loss_scale, 0.0, failed);
    clip[2] = select(0.0, 1.0, failed);
}

@compute @workgroup_size(WG)
fn clip_scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let total = sum_of_partials(lane);
    if lane == 0u && group.x == 0u {
        decide(total, 1.0);
        clip[3] = 0.0;
    }
}

// The same for gradients of a scaled loss, whose scale is the last number. Then the scale is halved after a failure, and
// doubled after `every` good steps.
@compute @workgroup_size(WG)
fn clip_loss_scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let total = sum_of_partials(lane);
    if lane != 0u || group.x != 0u {
        return;
    }
    let loss_scale = scaling[0];
    decide(total, loss_scale);
    clip[3] = loss_scale;
    var good = scaling[1] + 1.0;
    var next = loss_scale;
    if !is_finite(total) {
        next = max(0.5 * loss_scale, LEAST_SCALE);
        good = 0.0;
        scaling[2] += 1.0;
    } else if good >= f32(params.every) {
        next = min(2.0 * loss_scale, LARGEST_SCALE);
        good = 0.0;
    }
    scaling[0] = next;
    scaling[1] = good;
}
