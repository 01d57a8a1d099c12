// AdamW over a whole group of parameters.
//
// needs: lib/grid.wgsl, lib/stretch.wgsl, oct, lib/pack_four.wgsl, lib/adam.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<StoredOct>;
@group(0) @binding(2) var<storage, read> gradient: array<StoredOct>;
@group(0) @binding(3) var<storage, read_write> mean: array<StoredOct>;
@group(0) @binding(4) var<storage, read_write> square: array<StoredOct>;
@group(0) @binding(5) var<storage, read> clip: array<f32>;

@compute @workgroup_size(WG)
fn adamw(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    // A gradient that is not finite changes nothing, so that what is saved afterwards is the last good state.
    let failed = clip[2] != 0.0;
    let scale = clip[1];
    let own = stretch(group, groups, lane, params.octs);
    for (var i = own.start; i < own.end; i += stretch_step()) {
        let g = oct(gradient[i]);
        let old_mean = mean[i];
        let old_square = square[i];
        let m = oct(old_mean);
        let v = oct(old_square);
        let low = adam(scale * g.low, m.low, v.low);
        let high = adam(scale * g.high, m.high, v.high);
        mean[i] = replaced(old_mean, Oct(low.mean, high.mean), failed);
        square[i] = replaced(old_square, Oct(low.square, high.square), failed);
        let old = weight[i];
        let w = oct(old);
        weight[i] = replaced(old, Oct(descend(w.low, low.direction), descend(w.high, high.direction)), failed);
    }
}

fn descend(old: vec4<f32>, direction: vec4<f32>) -> vec4<f32> {
    return old - params.lr * (direction + params.decay * old);
}
