// AdamW over a whole group of parameters. Needs lib/grid.wgsl, lib/stretch.wgsl, lib/pack_vec4.wgsl, lib/adam.wgsl.

struct Params {
    packs: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    correct1: f32,
    correct2: f32,
    eps: f32,
    decay: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<Pack>;
@group(0) @binding(2) var<storage, read> gradient: array<Pack>;
@group(0) @binding(3) var<storage, read_write> mean: array<Pack>;
@group(0) @binding(4) var<storage, read_write> square: array<Pack>;
@group(0) @binding(5) var<storage, read> clip: array<f32>;

@compute @workgroup_size(WG)
fn adamw(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    // A gradient that is not finite changes nothing, so that what is saved afterwards is the last good state.
    if clip[2] != 0.0 {
        return;
    }
    let own = stretch(group, groups, lane, params.packs);
    for (var i = own.start; i < own.end; i += stretch_step()) {
        let step = adam(clip[1] * gradient[i], mean[i], square[i]);
        mean[i] = step.mean;
        square[i] = step.square;
        let old = weight[i];
        weight[i] = old - params.lr * (step.direction + params.decay * old);
    }
}
