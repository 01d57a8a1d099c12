// One tile of C = alpha op(A) op(B) + beta C: what an entry point of this folder (dense, grouped, weight_gradient) hands to
// software/product.wgsl. Operands may be padded beyond C's last row or column (software/pad.wgsl), which is where c_rows and
// c_columns are below m and n.

struct Tile {
    // First row and column of the tile in C.
    row: u32,
    column: u32,
    // Sizes of op(A): m x k, op(B): k x n; C has c_rows x c_columns.
    m: u32,
    n: u32,
    k: u32,
    c_rows: u32,
    c_columns: u32,
    // Element of the binding at which each matrix begins.
    a_first: u32,
    b_first: u32,
    c_first: u32,
    // Elements between two rows, as stored.
    a_stride: u32,
    b_stride: u32,
    c_stride: u32,
    alpha: f32,
    beta: f32,
}

// A tile of a product of these sizes, whose operands are not padded; its place and those of the operands are to be filled in.
fn tile_of(m: u32, n: u32, k: u32) -> Tile {
    var tile: Tile;
    tile.m = m;
    tile.n = n;
    tile.k = k;
    tile.c_rows = m;
    tile.c_columns = n;
    return tile;
}
