// silu(gate) * up and its gradients, one pack a thread.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<StoredPack>;
@group(0) @binding(2) var<storage, read> up: array<StoredPack>;
@group(0) @binding(3) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(4) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(5) var<storage, read_write> dgate: array<StoredPack>;
@group(0) @binding(6) var<storage, read_write> dup: array<StoredPack>;

// The bound keeps exp finite; sigmoid(-80) is 2e-35.
fn sigmoid(v: Pack) -> Pack {
    return Pack(1.0) / (Pack(1.0) + exp(min(-v, Pack(80.0))));
}

@compute @workgroup_size(WG)
fn swiglu(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let g = wide(gate[i]);
    y[i] = narrow(g * sigmoid(g) * wide(up[i]));
}

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g)
@compute @workgroup_size(WG)
fn swiglu_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let g = wide(gate[i]);
    let s = sigmoid(g);
    let d = wide(dy[i]);
    var gate_gradient = d * wide(up[i]) * s * (Pack(1.0) + g * (Pack(1.0) - s));
    var up_gradient = d * g * s;
    if params.gate_factor != 0.0 {
        gate_gradient += params.gate_factor * wide(dgate[i]);
    }
    if params.up_factor != 0.0 {
        up_gradient += params.up_factor * wide(dup[i]);
    }
    dgate[i] = narrow(gate_gradient);
    dup[i] = narrow(up_gradient);
}
