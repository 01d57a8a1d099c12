// One tile of C = alpha op(A) op(B) + beta C: what an entry point hands to the multiplying fragment it is joined with.
//
// A multiplying fragment (gemm/workgroup.wgsl, gemm/cooperative.wgsl or gemm/plain.wgsl), with what it needs, defines
// WG, TILE_ROWS, TILE_COLUMNS, A_TRANSPOSED and B_TRANSPOSED, binds `a`, `b` and `c`, and has
// `fn multiply(tile: Tile, lane: u32)`, called by all threads of a workgroup or by none.

struct Tile {
    // First row and column of the tile in C.
    row: u32,
    column: u32,
    // Sizes of op(A): m x k, op(B): k x n, C: m x n.
    m: u32,
    n: u32,
    k: u32,
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

// A tile of a product of these sizes; its place and those of the operands are to be filled in.
fn tile_of(m: u32, n: u32, k: u32) -> Tile {
    var tile: Tile;
    tile.m = m;
    tile.n = n;
    tile.k = k;
    return tile;
}
