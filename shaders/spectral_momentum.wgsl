// Muon's momentum for decoupled matrices, with the gradient's common part added or removed on the way.
//
// needs: lib/grid.wgsl, lib/low_rank.wgsl, lib/mixed_rows.wgsl, lanes, lib/nesterov.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> gradient: array<Pack>;
@group(0) @binding(2) var<storage, read_write> mean: array<Pack>;
@group(0) @binding(3) var<storage, read> left: array<f32>;
@group(0) @binding(4) var<storage, read> right: array<Pack>;
@group(0) @binding(5) var<storage, read> vt: array<Pack>;
@group(0) @binding(6) var<storage, read> clip: array<f32>;

fn moved(i: u32, g: Pack) {
    let step = nesterov(g, mean[i]);
    mean[i] = step.mean;
    gradient[i] = step.mixed;
}

// gradient <- what is orthogonalised, for the mixed gradient.
@compute @workgroup_size(WG)
fn spectral_momentum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    mixed_rows(place(workgroup_index(group, groups), lane));
}
