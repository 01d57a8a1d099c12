// Elementwise kernels over whole tensors.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(3) var<storage, read> source: array<Pack>;

// y = alpha x + beta y; where beta is 0, y is not read: it may hold anything, NaN included.
@compute @workgroup_size(WG)
fn axpby(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    var sum = params.alpha * wide(x[i]);
    if params.beta != 0.0 {
        sum += params.beta * wide(y[i]);
    }
    y[i] = narrow(sum);
}

// y = alpha
@compute @workgroup_size(WG)
fn fill(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        y[i] = narrow(Pack(params.alpha));
    }
}

// y = source, rounded to what y stores
@compute @workgroup_size(WG)
fn round_into(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        y[i] = narrow(source[i]);
    }
}
