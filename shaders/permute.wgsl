// Tokens to rows grouped by expert, and the gradient back; one row a workgroup.
// Needs lib/grid.wgsl and lib/lane_vec4.wgsl or lib/lane_scalar.wgsl.

override WG: u32 = 64;

const NONE: u32 = 0xffffffffu;

struct Params {
    rows: u32,      // written by this launch
    width: u32,     // Lanes of a row
    top_k: u32,
    first: u32,     // first of the source rows bound here
    count: u32,     // number of source rows bound here
    first_choice: u32,
    last_choice: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Lane>;
@group(0) @binding(2) var<storage, read> source: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<Lane>;
@group(0) @binding(4) var<storage, read> dy: array<Lane>;
@group(0) @binding(5) var<storage, read> slot: array<u32>;
@group(0) @binding(6) var<storage, read_write> dx: array<Lane>;

// y[r] = x[source[r] / K], zero where there is no source. A row whose token is not bound here is left alone.
@compute @workgroup_size(WG)
fn permute(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(group, groups);
    if row >= params.rows {
        return;
    }
    let pair = source[row];
    let target_row = row * params.width;
    if pair == NONE {
        for (var i = lane; i < params.width; i += WG) {
            y[target_row + i] = Lane(0.0);
        }
        return;
    }
    let token = pair / params.top_k - params.first;
    if token >= params.count {
        return;
    }
    let source_row = token * params.width;
    for (var i = lane; i < params.width; i += WG) {
        y[target_row + i] = x[source_row + i];
    }
}

// dx[t] = sum_j dy[slot[t, j]] in the order of j, over the choices first_choice..last_choice whose row is bound here.
@compute @workgroup_size(WG)
fn permute_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups);
    if token >= params.rows {
        return;
    }
    let target_row = token * params.width;
    for (var i = lane; i < params.width; i += WG) {
        var sum = Lane(0.0);
        if params.factor != 0.0 {
            sum = params.factor * dx[target_row + i];
        }
        for (var j = params.first_choice; j < params.last_choice; j++) {
            let row = slot[token * params.top_k + j] - params.first;
            if row < params.count {
                sum += dy[row * params.width + i];
            }
        }
        dx[target_row + i] = sum;
    }
}
