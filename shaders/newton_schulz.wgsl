// What Newton-Schulz iterations need beside products.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read> square: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<StoredPack>;

// y = x / (|x| + eps) for matrices of `size` packs; square has their squared norms. A zero matrix stays zero.
@compute @workgroup_size(WG)
fn normalize_matrices(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        let norm = sqrt(square[(params.first + i) / params.size]);
        y[i] = narrow(wide(x[i]) / (norm + params.eps));
    }
}

// y = one I + factor x for matrices of `size` x `size` elements.
@compute @workgroup_size(WG)
fn shifted_matrices(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        let at = (params.first + i) * PACK;
        let row = at / params.size % params.size;
        y[i] = narrow(params.factor * wide(x[i]) + params.one * pack_one(row, at % params.size));
    }
}
