// One tile of a matrix product from workgroup memory, 4 x 4 elements of C a thread: the form for GPUs.
// Needs lib/gemm_tile.wgsl.
//
// 256 threads share 64 x 16 of op(A) and 16 x 64 of op(B). Neighbouring threads load neighbouring elements as they are
// stored; in workgroup memory both lie with the step of k outermost, so that a thread's four rows are neighbours.

const WG: u32 = 256u;
const TILE_ROWS: u32 = 64u;
const TILE_COLUMNS: u32 = 64u;
// Steps of k a round. 16 keeps both parts at 8.5 KiB, about half of what WebGPU guarantees.
const STEPS: u32 = 16u;
// Elements between two steps: 64 and 4 more, so that the writes of a step spread over the banks.
const STRIDE: u32 = 68u;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;

@group(0) @binding(1) var<storage, read> a: array<RealA>;
@group(0) @binding(2) var<storage, read> b: array<RealB>;
@group(0) @binding(3) var<storage, read_write> c: array<RealC>;

var<workgroup> a_part: array<f32, STEPS * STRIDE>;
var<workgroup> b_part: array<f32, STEPS * STRIDE>;

// Outside the matrices zeros are loaded: they add nothing.
fn load_a(tile: Tile, t: u32, lane: u32) {
    for (var i = lane; i < STEPS * TILE_ROWS; i += WG) {
        let step = select(i % STEPS, i / TILE_ROWS, A_TRANSPOSED);
        let row = select(i / STEPS, i % TILE_ROWS, A_TRANSPOSED);
        var value = 0.0;
        if tile.row + row < tile.m && t + step < tile.k {
            value = f32(a[tile.a_first + select((tile.row + row) * tile.a_stride + t + step,
                                                (t + step) * tile.a_stride + tile.row + row, A_TRANSPOSED)]);
        }
        a_part[step * STRIDE + row] = value;
    }
}

fn load_b(tile: Tile, t: u32, lane: u32) {
    for (var i = lane; i < STEPS * TILE_COLUMNS; i += WG) {
        let step = select(i / TILE_COLUMNS, i % STEPS, B_TRANSPOSED);
        let column = select(i % TILE_COLUMNS, i / STEPS, B_TRANSPOSED);
        var value = 0.0;
        if tile.column + column < tile.n && t + step < tile.k {
            value = f32(b[tile.b_first + select((t + step) * tile.b_stride + tile.column + column,
                                                (tile.column + column) * tile.b_stride + t + step, B_TRANSPOSED)]);
        }
        b_part[step * STRIDE + column] = value;
    }
}

fn store_element(tile: Tile, row: u32, column: u32, sum: f32) {
    if row < tile.m && column < tile.n {
        let index = tile.c_first + row * tile.c_stride + column;
        // Where beta is 0, C may hold anything, NaN included.
        if tile.beta != 0.0 {
            c[index] = RealC(tile.alpha * sum + tile.beta * f32(c[index]));
        } else {
            c[index] = RealC(tile.alpha * sum);
        }
    }
}

fn store_row(tile: Tile, row: u32, column: u32, sum: vec4<f32>) {
    store_element(tile, row, column, sum.x);
    store_element(tile, row, column + 1u, sum.y);
    store_element(tile, row, column + 2u, sum.z);
    store_element(tile, row, column + 3u, sum.w);
}

fn multiply(tile: Tile, lane: u32) {
    let row = lane / 16u * 4u;
    let column = lane % 16u * 4u;
    var sum0 = vec4(0.0);
    var sum1 = vec4(0.0);
    var sum2 = vec4(0.0);
    var sum3 = vec4(0.0);
    for (var t = 0u; t < tile.k; t += STEPS) {
        load_a(tile, t, lane);
        load_b(tile, t, lane);
        workgroupBarrier();
        for (var step = 0u; step < STEPS; step++) {
            let i = step * STRIDE + row;
            let j = step * STRIDE + column;
            let quad = vec4(b_part[j], b_part[j + 1u], b_part[j + 2u], b_part[j + 3u]);
            sum0 += a_part[i] * quad;
            sum1 += a_part[i + 1u] * quad;
            sum2 += a_part[i + 2u] * quad;
            sum3 += a_part[i + 3u] * quad;
        }
        workgroupBarrier();
    }
    store_row(tile, tile.row + row, tile.column + column, sum0);
    store_row(tile, tile.row + row + 1u, tile.column + column, sum1);
    store_row(tile, tile.row + row + 2u, tile.column + column, sum2);
    store_row(tile, tile.row + row + 3u, tile.column + column, sum3);
}
