// One tile of a matrix product by one subgroup, for adapters where registers are fast and barriers slow (software).
// Needs lib/gemm_tile.wgsl and gemm/vec4.wgsl or gemm/scalar.wgsl. At least 4 rows, 4 columns and 4 steps of k.
//
// A workgroup is one subgroup. Lanes go along the columns, four each; a lane holds TILE_ROWS rows of its four columns.
// For four steps of k a lane loads its 4 x 4 block of op(B), and all lanes together load 8 x 4 blocks of op(A), one vec4
// each, whose elements reach the others by broadcasts from a constant lane: moves between registers. No workgroup
// memory, no barrier, no array indexed at run time. Measured against others in docs/performance.md.
//
// Rows, columns and steps come in fours. The last four are moved back to end with the matrix: rows and columns that
// another four has too are computed and not stored, steps that were counted already get the factor zero. So nothing in
// the loop depends on the edges.

// Lanes of a subgroup: 4, or a multiple of 8.
override WG: u32 = 8u;
// 8, 16 or 32.
override TILE_ROWS: u32 = 32u;
override TILE_COLUMNS: u32 = 4u * WG;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;
// C is stored n x m, so that a narrow product keeps all lanes busy.
override C_TRANSPOSED: bool = false;
// The number of steps may be no multiple of 4.
override K_TAIL: bool = false;

// First of the four rows or columns that stand for those from `first` on, of `count`.
fn moved(first: u32, count: u32) -> u32 {
    return min(first, count - 4u);
}

// Where this lane's share of op(A)[row .. row + 8][0 .. 4] begins. Lane l has row l; where A is stored transposed, it has
// step l % 4 of the rows 4 (l / 4) .. + 4.
fn a_start(tile: Tile, row: u32, lane: u32) -> u32 {
    let four = moved(row + lane / 4u % 2u * 4u, tile.m);
    if A_TRANSPOSED {
        return tile.a_first + lane % 4u * tile.a_stride + four;
    }
    return tile.a_first + (four + lane % 4u) * tile.a_stride;
}

// This lane's share of op(A)[..][t .. t + 4], zero for the first `counted` steps.
fn load_a(tile: Tile, start: u32, t: u32, counted: u32, lane: u32) -> vec4<f32> {
    if A_TRANSPOSED {
        let quad = a_quad(start + t * tile.a_stride);
        if K_TAIL {
            return select(quad, vec4(0.0), lane % 4u < counted);
        }
        return quad;
    }
    let quad = a_quad(start + t);
    if K_TAIL {
        return select(quad, vec4(0.0), vec4(0u, 1u, 2u, 3u) < vec4(counted));
    }
    return quad;
}

// op(B)[t .. t + 4][column .. column + 4], a column of the matrix for each step.
fn load_b(tile: Tile, t: u32, column: u32) -> mat4x4<f32> {
    if B_TRANSPOSED {
        let i = tile.b_first + column * tile.b_stride + t;
        return transpose(mat4x4(b_quad(i), b_quad(i + tile.b_stride), b_quad(i + 2u * tile.b_stride),
                                b_quad(i + 3u * tile.b_stride)));
    }
    let i = tile.b_first + t * tile.b_stride + column;
    return mat4x4(b_quad(i), b_quad(i + tile.b_stride), b_quad(i + 2u * tile.b_stride), b_quad(i + 3u * tile.b_stride));
}

// sum += op(A)[8 rows][t .. t + 4] op(B)[t .. t + 4][the lane's columns]; `low` is this lane's share of the rows, `high`
// that of the last four rows where a subgroup has only four lanes.
fn accumulate(sum: ptr<function, array<vec4<f32>, 8>>, low: vec4<f32>, high: vec4<f32>, b: mat4x4<f32>) {
    var four0 = mat4x4(subgroupBroadcast(low, 0u), subgroupBroadcast(low, 1u), subgroupBroadcast(low, 2u),
                       subgroupBroadcast(low, 3u));
    var four1: mat4x4<f32>;
    if WG < 8u {
        four1 = mat4x4(subgroupBroadcast(high, 0u), subgroupBroadcast(high, 1u), subgroupBroadcast(high, 2u),
                       subgroupBroadcast(high, 3u));
    } else {
        four1 = mat4x4(subgroupBroadcast(low, 4u), subgroupBroadcast(low, 5u), subgroupBroadcast(low, 6u),
                       subgroupBroadcast(low, 7u));
    }
    if A_TRANSPOSED {
        four0 = transpose(four0);
        four1 = transpose(four1);
    }
    (*sum)[0] += b * four0[0];
    (*sum)[1] += b * four0[1];
    (*sum)[2] += b * four0[2];
    (*sum)[3] += b * four0[3];
    (*sum)[4] += b * four1[0];
    (*sum)[5] += b * four1[1];
    (*sum)[6] += b * four1[2];
    (*sum)[7] += b * four1[3];
}

// The rows or columns `first` .. + 4 of C's block, of which some may be another's, or outside.
fn store_four(tile: Tile, row: u32, column: u32, sum: mat4x4<f32>) {
    let first_row = moved(row, tile.m);
    let first_column = moved(column, tile.n);
    var block = tile.alpha * sum;
    // As stored: the four rows, how many of them to skip, and likewise within a row.
    var index = tile.c_first + first_row * tile.c_stride + first_column;
    var rows_skipped = row - first_row;
    var skipped = min(column - first_column, 4u);
    if C_TRANSPOSED {
        block = transpose(block);
        index = tile.c_first + first_column * tile.c_stride + first_row;
        rows_skipped = column - first_column;
        skipped = min(row - first_row, 4u);
    }
    if rows_skipped < 1u {
        store_quad(index, block[0], skipped, tile.beta);
    }
    if rows_skipped < 2u {
        store_quad(index + tile.c_stride, block[1], skipped, tile.beta);
    }
    if rows_skipped < 3u {
        store_quad(index + 2u * tile.c_stride, block[2], skipped, tile.beta);
    }
    if rows_skipped < 4u {
        store_quad(index + 3u * tile.c_stride, block[3], skipped, tile.beta);
    }
}

fn store(sum: ptr<function, array<vec4<f32>, 8>>, tile: Tile, row: u32, column: u32) {
    store_four(tile, row, column, mat4x4((*sum)[0], (*sum)[1], (*sum)[2], (*sum)[3]));
    store_four(tile, row + 4u, column, mat4x4((*sum)[4], (*sum)[5], (*sum)[6], (*sum)[7]));
}

// Eight rows from `start`, or from `high` on for the last four where a subgroup has four lanes.
fn rows8(sum: ptr<function, array<vec4<f32>, 8>>, tile: Tile, start: u32, high_start: u32, t: u32, counted: u32,
         lane: u32, b: mat4x4<f32>) {
    let low = load_a(tile, start, t, counted, lane);
    var high = low;
    if WG < 8u {
        high = load_a(tile, high_start, t, counted, lane);
    }
    accumulate(sum, low, high, b);
}

fn multiply(tile: Tile, lane: u32) {
    let column = tile.column + lane * 4u;
    let b_column = moved(column, tile.n);
    let row = tile.row;
    // The rows of the tile, eight by eight.
    var sum0: array<vec4<f32>, 8>;
    var sum1: array<vec4<f32>, 8>;
    var sum2: array<vec4<f32>, 8>;
    var sum3: array<vec4<f32>, 8>;
    let start0 = a_start(tile, row, lane);
    let start1 = a_start(tile, row + 8u, lane);
    let start2 = a_start(tile, row + 16u, lane);
    let start3 = a_start(tile, row + 24u, lane);
    let high0 = a_start(tile, row + 4u, lane);
    let high1 = a_start(tile, row + 12u, lane);
    let high2 = a_start(tile, row + 20u, lane);
    let high3 = a_start(tile, row + 28u, lane);
    for (var step = 0u; step < tile.k; step += 4u) {
        let t = select(step, moved(step, tile.k), K_TAIL);
        let counted = step - t;
        let block = load_b(tile, t, b_column);
        rows8(&sum0, tile, start0, high0, t, counted, lane, block);
        if TILE_ROWS > 8u {
            rows8(&sum1, tile, start1, high1, t, counted, lane, block);
        }
        if TILE_ROWS > 16u {
            rows8(&sum2, tile, start2, high2, t, counted, lane, block);
            rows8(&sum3, tile, start3, high3, t, counted, lane, block);
        }
    }
    store(&sum0, tile, row, column);
    if TILE_ROWS > 8u {
        store(&sum1, tile, row + 8u, column);
    }
    if TILE_ROWS > 16u {
        store(&sum2, tile, row + 16u, column);
        store(&sum3, tile, row + 24u, column);
    }
}
