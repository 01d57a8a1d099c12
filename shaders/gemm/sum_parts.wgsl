// C = alpha (P_0 + P_1 + ...) + beta C: the parts of products whose sums over k were cut, added in their order.
//
// The parts of a matrix, m x n without gaps, lie one behind the other in `parts`, then those of the batch's next.
//
// needs: lib/grid.wgsl, store

const WG: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>;

@compute @workgroup_size(WG)
fn gemm_sum_parts(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups) * WG + lane;
    let fours = (params.n + 3u) / 4u;
    let row = index / fours;
    if row >= params.batch * params.m {
        return;
    }
    let matrix = row / params.m;
    let column = index % fours * 4u;
    let count = params.n - column;
    let size = params.m * params.n;
    var first = matrix * params.splits * size + row % params.m * params.n + column;
    var sum = vec4(0.0);
    for (var part = 0u; part < params.splits; part++) {
        sum += vec4(parts[first], part_element(first, 1u, count), part_element(first, 2u, count),
                    part_element(first, 3u, count));
        first += size;
    }
    let c_index = params.c_first + matrix * params.c_matrix + row % params.m * params.c_stride + column;
    store_quad(c_index, params.alpha * sum, 0u, count, params.beta);
}

// The element `i` past `first` of a row of which `count` are left, else one that is not used.
fn part_element(first: u32, i: u32, count: u32) -> f32 {
    return parts[first + min(i, count - 1u)];
}
