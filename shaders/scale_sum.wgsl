// Sums of blocks in fixed order, and products with a number that lies on the device.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(3) var<storage, read> factor: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<StoredPack>;

// sums[i] = scale * (sum of block i)
@compute @workgroup_size(WG)
fn block_sum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let first = i * params.block;
    if first >= params.count {
        return;
    }
    var sum = 0.0;
    for (var j = first; j < min(first + params.block, params.count); j++) {
        sum += x[j];
    }
    sums[i] = params.scale * sum;
}

// y *= scale factor[0]
@compute @workgroup_size(WG)
fn scale_by(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        y[i] = narrow(params.scale * factor[0] * wide(y[i]));
    }
}
