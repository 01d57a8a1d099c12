// Rows times the sigmoid of one logit each, and the gradients; one row a workgroup.
// Needs lib/grid.wgsl, lib/lane_vec4.wgsl or lib/lane_scalar.wgsl, lib/row_sum_subgroup.wgsl or lib/row_sum_workgroup.wgsl.

override WG: u32 = 64;

struct Params {
    rows: u32,
    width: u32,     // Lanes of a row
    dx_factor: f32,
    dlogit_factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lane>;
@group(0) @binding(2) var<storage, read> logit: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<Lane>;
@group(0) @binding(4) var<storage, read> dy: array<Lane>;
@group(0) @binding(5) var<storage, read_write> dx: array<Lane>;
@group(0) @binding(6) var<storage, read_write> dlogit: array<f32>;

// The bound keeps exp finite; sigmoid(-80) is 2e-35.
fn gate_of(row: u32) -> f32 {
    return 1.0 / (1.0 + exp(min(-logit[row], 80.0)));
}

@compute @workgroup_size(WG)
fn sigmoid_gate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(group, groups);
    if row >= params.rows {
        return;
    }
    let gate = gate_of(row);
    for (var i = lane; i < params.width; i += WG) {
        y[row * params.width + i] = gate * x[row * params.width + i];
    }
}

// dx = s dy;  dlogit = s (1 - s) <dy, x>
@compute @workgroup_size(WG)
fn sigmoid_gate_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(group, groups);
    let inside = row < params.rows;
    var gate = 0.0;
    var sum = 0.0;
    if inside {
        gate = gate_of(row);
        for (var i = lane; i < params.width; i += WG) {
            let cell = row * params.width + i;
            sum += lane_dot(dy[cell], x[cell]);
            var gradient = gate * dy[cell];
            if params.dx_factor != 0.0 {
                gradient += params.dx_factor * dx[cell];
            }
            dx[cell] = gradient;
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
