// delta = sum over a head's columns of dy y, by row and head.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<StoredPack>;
@group(0) @binding(2) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(WG)
fn attention_delta(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    var sum = Pack();
    for (var t = i * params.width; t < (i + 1u) * params.width; t++) {
        sum += wide(y[t]) * wide(dy[t]);
    }
    delta[i] = pack_sum(sum);
}
