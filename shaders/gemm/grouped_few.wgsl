// As gemm/grouped.wgsl where few rows are routed: the tiles of a workgroup have four rows, and those without a routed row become zeros,
// and read nothing of W. A launch has all rows.
//
// needs: lib/grid.wgsl, multiply

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> tile_expert: array<u32>;
@group(0) @binding(5) var<storage, read> offsets: array<u32>;
@group(0) @binding(6) var<storage, read> counts: array<u32>;

@compute @workgroup_size(WG)
fn grouped_gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let columns = (params.n + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    let row = index / columns * TILE_ROWS;
    if row >= params.rows {
        return;
    }
    // Wraps to a large number for experts before the first; so is the mark of a tile without expert.
    let expert = tile_expert[params.tile_first + row / params.tile_rows] - params.expert_first;
    if expert >= params.experts {
        return;
    }
    var tile = tile_of(params.rows, params.n, params.k);
    tile.row = row;
    tile.column = index % columns * TILE_COLUMNS;
    tile.a_first = params.a_first;
    tile.b_first = params.b_first + expert * params.b_matrix;
    tile.c_first = params.c_first;
    tile.a_stride = params.a_stride;
    tile.b_stride = params.b_stride;
    tile.c_stride = params.c_stride;
    tile.alpha = 1.0;
    tile.beta = params.beta;
    let number = params.expert_first + expert;
    if row - offsets[number] >= counts[number] {
        // Padding: no sum has terms.
        tile.k = 0u;
    }
    multiply(tile, lane);
}
