// Rows times the sigmoid of one logit each, and the gradients; one row a workgroup.
//
// needs: lib/grid.wgsl, pack, row

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read> logit: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(4) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(5) var<storage, read_write> dx: array<StoredPack>;
@group(0) @binding(6) var<storage, read_write> dlogit: array<f32>;

// The bound keeps exp finite; sigmoid(-80) is 2e-35.
fn gate_of(row: u32) -> f32 {
    return 1.0 / (1.0 + exp(min(-logit[row], 80.0)));
}

@compute @workgroup_size(WG)
fn sigmoid_gate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let row = row_index(group, groups, lane);
    if row >= params.rows {
        return;
    }
    let gate = gate_of(row);
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        y[row * params.width + i] = narrow(gate * wide(x[row * params.width + i]));
    }
}

// dx = s dy;  dlogit = s (1 - s) <dy, x>
@compute @workgroup_size(WG)
fn sigmoid_gate_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let row = row_index(group, groups, lane);
    let inside = row < params.rows;
    var gate = 0.0;
    var sum = 0.0;
    if inside {
        gate = gate_of(row);
        for (var i = row_begin(lane); i < params.width; i += row_step()) {
            let cell = row * params.width + i;
            sum += pack_dot(wide(dy[cell]), wide(x[cell]));
            var gradient = gate * wide(dy[cell]);
            if params.dx_factor != 0.0 {
                gradient += params.dx_factor * wide(dx[cell]);
            }
            dx[cell] = narrow(gradient);
        }
    }
    sum = row_sum(sum, lane);
    if inside && lane == 0u {
        var gradient = gate * (1.0 - gate) * sum;
        if params.dlogit_factor != 0.0 {
            gradient += params.dlogit_factor * dlogit[row];
        }
        dlogit[row] = gradient;
    }
}
