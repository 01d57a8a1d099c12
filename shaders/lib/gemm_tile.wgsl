// One tile of C = alpha op(A) op(B) + beta C: what an entry point hands to the multiplying fragment it is joined with.
//
// A multiplying fragment (gemm/workgroup.wgsl, gemm/cooperative.wgsl, gemm/plain.wgsl or one of another folder) defines WG,
// TILE_ROWS, TILE_COLUMNS, A_TRANSPOSED, B_TRANSPOSED and C_TRANSPOSED, binds `a`, `b` and `c`, and has
// `fn multiply(tile: Tile, lane: u32)`, called by all threads of a workgroup or by none.

struct Tile {
    // First row and column of the tile in C.
    row: u32,
    column: u32,
    // Sizes of op(A): m x k, op(B): k x n; C has c_rows and c_columns, which may be less where operands are padded.
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

// Columns of tiles that are worked on together: their panels of B stay in a core's cache while each panel of A is used
// that many times in a row. Measured on lavapipe: A stored transposed gains up to 1.6, other forms nothing or little.
const STRIP: u32 = 4u;

// Row and column of the `index`-th tile, in tiles, of `rows` x `columns`.
fn tile_position(index: u32, rows: u32, columns: u32) -> vec2<u32> {
    let first = index / (rows * STRIP) * STRIP;
    let width = min(STRIP, columns - first);
    let within = index - first * rows;
    return vec2(within / width, first + within % width);
}
