// As gemm/grouped.wgsl where few rows are routed: the tiles of a workgroup have four rows, and those without a routed row become zeros,
// and read nothing of W. A launch has all rows.
//
// needs: lib/grid.wgsl, gemm/grouped_tile.wgsl, multiply

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
    let expert = expert_of(row);
    if expert >= params.experts {
        return;
    }
    var tile = grouped_tile(row, index % columns * TILE_COLUMNS, expert);
    let number = params.expert_first + expert;
    if row - offsets[number] >= counts[number] {
        // Padding: no sum has terms.
        tile.k = 0u;
    }
    multiply(tile, lane);
}
