// As gemm/weight_gradient.wgsl: dW[e] = X_e^T dY_e + beta dW[e] over the rows of expert e.
//
// A launch has the rows row_first .. + rows of X and dY, and the experts expert_first .. + experts of dW. An expert's
// rows begin at offsets[e] and end before offsets[e + 1], padding of zeros included; one without rows gets beta dW[e].
//
// A workgroup has BLOCK_ROWS x BLOCK_COLUMNS tiles of dW and goes through the rows in equal parts of about ROWS_AT_ONCE, so
// that those rows of X and dY stay in a core's cache until all its tiles have used them. dW holds the sums between them,
// which costs what some 40 rows do: hence few parts, and none that is short.
//
// Columns of blocks come first, then experts: software adapters give each core an equal share of the workgroups, one behind
// the other, and experts have unequal numbers of rows.
// `a` is X, `b` is dY, `c` is dW.
//
// needs: lib/grid.wgsl, lib/expert_rows.wgsl, multiply

override BLOCK_ROWS: u32 = 1u;
override BLOCK_COLUMNS: u32 = 1u;
override ROWS_AT_ONCE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn grouped_weight_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                           @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let rows = (params.m + TILE_ROWS - 1u) / TILE_ROWS;
    let columns = (params.n + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    let block_rows = (rows + BLOCK_ROWS - 1u) / BLOCK_ROWS;
    let column_blocks = block_rows * params.experts;
    let expert = index % column_blocks / block_rows;
    let first_row = index % block_rows * BLOCK_ROWS;
    let first_column = index / column_blocks * BLOCK_COLUMNS;
    if first_column >= columns {
        return;
    }
    let span = span_of(expert);
    let first = span.x;
    let end = span.y;
    if end == first && params.beta == 1.0 {
        return;
    }
    var tile: Tile;
    tile.m = params.m;
    tile.n = params.n;
    tile.c_rows = params.m;
    tile.c_columns = params.n;
    tile.c_first = params.c_first + expert * params.c_matrix;
    tile.a_stride = params.a_stride;
    tile.b_stride = params.b_stride;
    tile.c_stride = params.c_stride;
    tile.alpha = 1.0;
    tile.beta = params.beta;
    let parts = max((end - first + ROWS_AT_ONCE / 2u) / ROWS_AT_ONCE, 1u);
    // Rows of an expert are a multiple of 32, as the products' steps are of 4.
    let part = ((end - first + parts - 1u) / parts + 31u) / 32u * 32u;
    var start = first;
    loop {
        tile.k = min(end - start, part);
        tile.a_first = params.a_first + start * params.a_stride;
        tile.b_first = params.b_first + start * params.b_stride;
        for (var tile_index = 0u; tile_index < BLOCK_ROWS * BLOCK_COLUMNS; tile_index++) {
            let row = first_row + tile_index / BLOCK_COLUMNS;
            let column = first_column + tile_index % BLOCK_COLUMNS;
            if row < rows && column < columns {
                tile.row = row * TILE_ROWS;
                tile.column = column * TILE_COLUMNS;
                multiply(tile, lane);
            }
        }
        start += tile.k;
        tile.beta = 1.0;
        if start >= end {
            break;
        }
    }
}
