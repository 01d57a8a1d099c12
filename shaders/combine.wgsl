// Rows grouped by expert back to tokens, weighted, and the gradients; one row a workgroup.
// Needs lib/grid.wgsl, lib/lane_vec4.wgsl or lib/lane_scalar.wgsl, lib/row_sum_subgroup.wgsl or lib/row_sum_workgroup.wgsl.

override WG: u32 = 64;

const NONE: u32 = 0xffffffffu;

struct Params {
    rows: u32,      // written by this launch
    width: u32,     // Lanes of a row
    top_k: u32,
    first: u32,     // first of the rows (forward) or tokens (backward) bound here to be read
    count: u32,     // their number
    first_choice: u32,
    last_choice: u32,
    factor: f32,
    dw_factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<Lane>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> slot: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<Lane>;
@group(0) @binding(5) var<storage, read> source: array<u32>;
@group(0) @binding(6) var<storage, read> dy: array<Lane>;
@group(0) @binding(7) var<storage, read_write> dz: array<Lane>;
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;

// y[t] = sum_j w[t, j] z[slot[t, j]] in the order of j, over the choices first_choice..last_choice whose row is bound here.
@compute @workgroup_size(WG)
fn combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups);
    if token >= params.rows {
        return;
    }
    let target_row = token * params.width;
    for (var i = lane; i < params.width; i += WG) {
        var sum = Lane(0.0);
        if params.factor != 0.0 {
            sum = params.factor * y[target_row + i];
        }
        for (var j = params.first_choice; j < params.last_choice; j++) {
            let pair = token * params.top_k + j;
            let row = slot[pair] - params.first;
            if row < params.count {
                sum += weights[pair] * z[row * params.width + i];
            }
        }
        y[target_row + i] = sum;
    }
}

// dz[r] = w[p] dy[t], dw[p] = <dy[t], z[r]> with p = source[r], t = p / K; dz[r] = 0 where there is no source.
// Rows whose token is not bound here are left alone.
@compute @workgroup_size(WG)
fn combine_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(group, groups);
    let inside = row < params.rows;
    var pair = NONE;
    if inside {
        pair = source[row];
    }
    let first = row * params.width;
    if inside && pair == NONE && params.factor == 0.0 {
        for (var i = lane; i < params.width; i += WG) {
            dz[first + i] = Lane(0.0);
        }
    }
    let token = pair / params.top_k - params.first;
    let present = pair != NONE && token < params.count;
    let local_pair = pair - params.first * params.top_k;
    var sum = 0.0;
    if present {
        let weight = weights[local_pair];
        for (var i = lane; i < params.width; i += WG) {
            let gradient = dy[token * params.width + i];
            sum += lane_dot(gradient, z[first + i]);
            var product = weight * gradient;
            if params.factor != 0.0 {
                product += params.factor * dz[first + i];
            }
            dz[first + i] = product;
        }
    }
    sum = row_sum(sum, lane);
    if present && lane == 0u {
        if params.dw_factor != 0.0 {
            sum += params.dw_factor * dw[local_pair];
        }
        dw[local_pair] = sum;
    }
}
