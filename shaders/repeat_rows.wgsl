// Rows repeated, and the sums over the repetitions.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(3) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(4) var<storage, read_write> dx: array<StoredPack>;

// y[row times + t] = x[row]
@compute @workgroup_size(WG)
fn repeat_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        y[i] = x[i / params.width / params.times * params.width + i % params.width];
    }
}

// dx[row] = sum over t from first to last of dy[row times + t], in ascending order, + beta dx[row]
@compute @workgroup_size(WG)
fn repeat_rows_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let row = i / params.width * params.times;
    var sum = Pack();
    for (var t = params.first; t < params.last; t++) {
        sum += wide(dy[(row + t) * params.width + i % params.width]);
    }
    if params.beta != 0.0 {
        sum += params.beta * wide(dx[i]);
    }
    dx[i] = narrow(sum);
}
