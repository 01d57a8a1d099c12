// The entry point of dense products: a batch of C = alpha op(A) op(B) + beta C, one tile a workgroup.
//
// Operand X has a matrix for each `x_repeat` matrices of the batch in a row. `batch_first` numbers the first matrix of
// this launch within the whole batch, where a batch is split because a binding cannot hold it.
//
// With SPLIT the sums over k are cut into `splits` parts of `split_steps` steps, each a matrix of its own in C, which
// gemm/sum_parts.wgsl adds: for products of too few tiles to fill the device.
//
// needs: lib/grid.wgsl, lib/tile_position.wgsl, multiply

override SPLIT: bool = false;

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let rows = (params.m + TILE_ROWS - 1u) / TILE_ROWS;
    let columns = (params.n + TILE_COLUMNS - 1u) / TILE_COLUMNS;
    let tiles = rows * columns;
    var matrix = index / tiles;
    var split = 0u;
    if SPLIT {
        split = matrix % params.splits;
        matrix /= params.splits;
    }
    if matrix >= params.batch {
        return;
    }
    let a_index = (params.batch_first + matrix) / params.a_repeat - params.batch_first / params.a_repeat;
    let b_index = (params.batch_first + matrix) / params.b_repeat - params.batch_first / params.b_repeat;
    var tile: Tile;
    let position = tile_position(index % tiles, rows, columns);
    tile.row = position.x * TILE_ROWS;
    tile.column = position.y * TILE_COLUMNS;
    tile.m = params.m;
    tile.n = params.n;
    tile.k = params.k;
    tile.a_first = params.a_first + a_index * params.a_matrix;
    tile.b_first = params.b_first + b_index * params.b_matrix;
    tile.c_first = params.c_first + matrix * params.c_matrix;
    tile.a_stride = params.a_stride;
    tile.b_stride = params.b_stride;
    tile.c_stride = params.c_stride;
    tile.alpha = params.alpha;
    tile.beta = params.beta;
    if SPLIT {
        let first = split * params.split_steps;
        tile.k = min(params.k - first, params.split_steps);
        tile.a_first += first * select(1u, params.a_stride, A_TRANSPOSED);
        tile.b_first += first * select(params.b_stride, 1u, B_TRANSPOSED);
        tile.c_first = params.c_first + (matrix * params.splits + split) * params.c_matrix;
    }
    multiply(tile, lane);
}
