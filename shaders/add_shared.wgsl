// What the experts of a layer share, added to each of them. Needs lib/grid.wgsl, lib/pack*.wgsl.

override WG: u32 = 64;
// Whether y itself is x.
override IN_PLACE: u32 = 0;

struct Params {
    count: u32,
    // Packs of a matrix.
    size: u32,
    experts: u32,
    own: f32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> common_matrix: array<Pack>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack>;

// y: [layers, experts, size] = own x + factor common_matrix: [layers, size].
@compute @workgroup_size(WG)
fn add_shared(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    var value: Pack;
    if IN_PLACE != 0u {
        value = y[i];
    } else {
        value = x[i];
    }
    y[i] = params.own * value + params.factor * common_matrix[i / (params.experts * params.size) * params.size + i % params.size];
}
