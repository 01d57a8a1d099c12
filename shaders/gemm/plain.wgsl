// One tile of a matrix product, one element of C a thread: the form that needs nothing optional and tunes nothing.
//
// provides: multiply
// needs: lib/gemm_tile.wgsl

const WG: u32 = 64u;
const TILE_ROWS: u32 = 8u;
const TILE_COLUMNS: u32 = 8u;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;

@group(0) @binding(1) var<storage, read> a: array<RealA>;
@group(0) @binding(2) var<storage, read> b: array<RealB>;
@group(0) @binding(3) var<storage, read_write> c: array<RealC>;

fn multiply(tile: Tile, lane: u32) {
    let row = tile.row + lane / TILE_COLUMNS;
    let column = tile.column + lane % TILE_COLUMNS;
    if row >= tile.m || column >= tile.n {
        return;
    }
    let a_first = tile.a_first + select(row * tile.a_stride, row, A_TRANSPOSED);
    let a_step = select(1u, tile.a_stride, A_TRANSPOSED);
    let b_first = tile.b_first + select(column, column * tile.b_stride, B_TRANSPOSED);
    let b_step = select(tile.b_stride, 1u, B_TRANSPOSED);
    var sum = 0.0;
    for (var t = 0u; t < tile.k; t++) {
        sum += f32(a[a_first + t * a_step]) * f32(b[b_first + t * b_step]);
    }
    sum *= tile.alpha;
    // Where beta is 0, C may hold anything, NaN included.
    let index = tile.c_first + row * tile.c_stride + column;
    if tile.beta != 0.0 {
        sum += tile.beta * f32(c[index]);
    }
    c[index] = RealC(sum);
}
