// Copies the rows in use, and zeroes the others.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<Real>;
@group(0) @binding(3) var<storage, read_write> y: array<Real>;

// y[row] = x[row] for rows below offsets[last], 0 for the others, which may hold anything.
@compute @workgroup_size(WG)
fn keep_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let first = (workgroup_index(group, groups) * WG + lane) * 4u;
    let end = min(first + 4u, params.count);
    // In elements of this part of the tensor; the product fits, for no tensor has 2^32 elements.
    let kept = (max(offsets[params.last], params.first_row) - params.first_row) * params.columns;
    for (var i = first; i < end; i++) {
        if i < kept {
            y[i] = x[i];
        } else {
            y[i] = Real(0.0);
        }
    }
}
