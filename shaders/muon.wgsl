// Muon's momentum and its step, over flat buffers.
//
// needs: lib/grid.wgsl, lib/stretch.wgsl, oct, lib/pack_four.wgsl, lib/nesterov.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<StoredOct>;
@group(0) @binding(2) var<storage, read_write> gradient: array<StoredOct>;
@group(0) @binding(3) var<storage, read_write> mean: array<StoredOct>;
@group(0) @binding(4) var<storage, read> direction: array<StoredOct>;
@group(0) @binding(5) var<storage, read> clip: array<f32>;

// gradient <- what is orthogonalised; the momentum with it. A gradient that is not finite changes nothing.
@compute @workgroup_size(WG)
fn muon_momentum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let failed = clip[2] != 0.0;
    let scale = clip[1];
    let own = stretch(group, groups, lane, params.octs);
    for (var i = own.start; i < own.end; i += stretch_step()) {
        let old_gradient = gradient[i];
        let old_mean = mean[i];
        let g = oct(old_gradient);
        let m = oct(old_mean);
        let low = nesterov(scale * g.low, m.low);
        let high = nesterov(scale * g.high, m.high);
        gradient[i] = replaced(old_gradient, Oct(low.mixed, high.mixed), failed);
        mean[i] = replaced(old_mean, Oct(low.mean, high.mean), failed);
    }
}

// weight -= lr direction + decay weight, unless the step has failed.
@compute @workgroup_size(WG)
fn muon_step(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let failed = clip[2] != 0.0;
    let own = stretch(group, groups, lane, params.octs);
    for (var i = own.start; i < own.end; i += stretch_step()) {
        let old = weight[i];
        let w = oct(old);
        let d = oct(direction[i]);
        let low = w.low - params.lr * (d.low + params.decay * w.low);
        let high = w.high - params.lr * (d.high + params.decay * w.high);
        weight[i] = replaced(old, Oct(low, high), failed);
    }
}
