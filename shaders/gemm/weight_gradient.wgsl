// The entry point of the experts' weight gradients: dW[e] = X_e^T dY_e + beta dW[e] over the rows of expert e.
//
// A launch has the rows row_first .. + rows of X and dY, and the experts expert_first .. + experts of dW. An expert's
// rows begin at offsets[e] and end before offsets[e + 1], padding of zeros included; one without rows gets beta dW[e].
//
// Where `chunk_rows` is not 0, an expert's rows beyond its first chunk are left to a second launch with SLOTS: its C has a matrix for
// each of `slots` chunks, which gemm/sum_chunks.wgsl adds. So no workgroup goes through all rows of an expert that has most of them.
//
// Columns of tiles come first, then experts. `a` is X, `b` is dY, `c` is dW.
//
// needs: lib/grid.wgsl, lib/chunks.wgsl, multiply

override SLOTS: bool = false;

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn grouped_weight_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                           @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let rows = (params.m + TILE_ROWS - 1u) / TILE_ROWS;
    let columns = (params.n + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    let column_tiles = rows * select(params.experts, params.slots, SLOTS);
    // The matrix of C.
    let matrix = index % column_tiles / rows;
    let row = index % rows;
    let column = index / column_tiles;
    if column >= columns {
        return;
    }
    var slot = Slot(true, matrix, 0u, 0u);
    if SLOTS {
        slot = chunk_in(matrix);
    }
    let span = span_of(slot.expert);
    let first = span.x + slot.chunk * params.chunk_rows;
    let end = select(span.y, min(span.y, first + params.chunk_rows), params.chunk_rows > 0u);
    if !slot.used || end == first && params.beta == 1.0 {
        return;
    }
    var tile: Tile;
    tile.row = row * TILE_ROWS;
    tile.column = column * TILE_COLUMNS;
    tile.m = params.m;
    tile.n = params.n;
    tile.k = end - first;
    tile.a_first = params.a_first + first * params.a_stride;
    tile.b_first = params.b_first + first * params.b_stride;
    tile.c_first = params.c_first + matrix * params.c_matrix;
    tile.a_stride = params.a_stride;
    tile.b_stride = params.b_stride;
    tile.c_stride = params.c_stride;
    tile.alpha = 1.0;
    tile.beta = params.beta;
    multiply(tile, lane);
}
