// The entry point of grouped products: Y[rows of tile i] = X[rows of tile i] op(W[expert of tile i]).
//
// A launch skips the tiles of other experts than its own, and those without expert.
//
// needs: lib/grid.wgsl, lib/tile_position.wgsl, gemm/grouped_tile.wgsl, multiply

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
    let expert = expert_of(row);
    let tile = grouped_tile(row, position.y * TILE_COLUMNS, expert);
    if expert < params.experts {
        multiply(tile, lane);
    }
}
