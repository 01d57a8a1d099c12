// Rows of a SwiGLU expert's Jacobian before its down projection, at one token, one output a thread.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read> u: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

// y: [E, rows, f] = gate * (silu'(g) u) + up * silu(g), gate and up: [E, rows, f], g and u: [E, tokens, f] of which the row
// `token` is taken; silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
@compute @workgroup_size(WG)
fn jacobian_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let expert = i / (params.rows * params.hidden);
    let at = (expert * params.tokens + params.token) * params.hidden + i % params.hidden;
    let x = g[at];
    // The bound keeps exp finite; sigmoid(-80) is 2e-35.
    let s = 1.0 / (1.0 + exp(min(-x, 80.0)));
    y[i] = gate[i] * (s * (1.0 + x * (1.0 - s)) * u[at]) + up[i] * (x * s);
}
