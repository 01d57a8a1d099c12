// y = min(max(x, -limit), limit), and its gradient.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(3) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(4) var<storage, read_write> dx: array<StoredPack>;

@compute @workgroup_size(WG)
fn clamp_symmetric(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        y[i] = narrow(min(max(wide(x[i]), Pack(-params.limit)), Pack(params.limit)));
    }
}

// dx = dy where x is within the limits or at them, else 0; + beta dx
@compute @workgroup_size(WG)
fn clamp_symmetric_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    var gradient = select(Pack(), wide(dy[i]), abs(wide(x[i])) <= Pack(params.limit));
    if params.beta != 0.0 {
        gradient += params.beta * wide(dx[i]);
    }
    dx[i] = narrow(gradient);
}
