// The entry point of grouped products: Y[rows of tile i] = X[rows of tile i] op(W[expert of tile i]).
//
// A launch has the experts expert_first .. + experts in W; it skips the tiles of others, and those without expert.
// `a` is X, `b` is W, `c` is Y.
//
// needs: lib/grid.wgsl, lib/tile_position.wgsl, multiply

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> tile_expert: array<u32>;

@compute @workgroup_size(WG)
fn grouped_gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let tiles = (params.rows + TILE_ROWS - 1u) / TILE_ROWS;
    let columns = (params.n + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    if index >= tiles * columns {
        return;
    }
    let position = tile_position(index, tiles, columns);
    let row = position.x * TILE_ROWS;
    // Wraps to a large number for experts before the first; so is the mark of a tile without expert.
    let expert = tile_expert[params.tile_first + row / params.tile_rows] - params.expert_first;
    var tile = tile_of(params.rows, params.n, params.k);
    tile.row = row;
    tile.column = position.y * TILE_COLUMNS;
    tile.a_first = params.a_first;
    tile.b_first = params.b_first + expert * params.b_matrix;
    tile.c_first = params.c_first;
    tile.a_stride = params.a_stride;
    tile.b_stride = params.b_stride;
    tile.c_stride = params.c_stride;
    tile.alpha = 1.0;
    tile.beta = params.beta;
    if expert < params.experts {
        multiply(tile, lane);
    }
}
