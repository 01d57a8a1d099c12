// The product of two tensors, element by element.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<StoredPack>;
@group(0) @binding(2) var<storage, read> b: array<StoredPack>;
@group(0) @binding(3) var<storage, read_write> y: array<StoredPack>;

// y = a b + beta y
@compute @workgroup_size(WG)
fn multiply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    var product = wide(a[i]) * wide(b[i]);
    if params.beta != 0.0 {
        product += params.beta * wide(y[i]);
    }
    y[i] = narrow(product);
}
