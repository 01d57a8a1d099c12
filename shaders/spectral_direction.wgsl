// AdamW's direction for decoupled matrices, the decay apart, with the gradient's common part added or removed on the way.
//
// needs: lib/grid.wgsl, lib/low_rank.wgsl, lib/mixed_rows.wgsl, lanes, lib/adam.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> gradient: array<Pack>;
@group(0) @binding(2) var<storage, read_write> mean: array<Pack>;
@group(0) @binding(3) var<storage, read_write> square: array<Pack>;
@group(0) @binding(4) var<storage, read> left: array<f32>;
@group(0) @binding(5) var<storage, read> right: array<Pack>;
@group(0) @binding(6) var<storage, read> vt: array<Pack>;
@group(0) @binding(7) var<storage, read> clip: array<f32>;

fn moved(i: u32, g: Pack) {
    let step = adam(g, mean[i], square[i]);
    mean[i] = step.mean;
    square[i] = step.square;
    gradient[i] = step.direction;
}

// gradient <- AdamW's direction, for the mixed gradient.
@compute @workgroup_size(WG)
fn spectral_direction(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    mixed_rows(place(workgroup_index(group, groups), lane));
}
