// One tile of a matrix product by one subgroup, for adapters where registers are fast and barriers slow (software).
// Needs lib/gemm_tile.wgsl and gemm/vec4.wgsl or gemm/scalar.wgsl.
//
// A workgroup is one subgroup. Lanes go along the columns, four each; a lane holds TILE_ROWS rows of its four columns.
// For four steps of k a lane loads its 4 x 4 block of op(B), and all lanes together load 8 x 4 blocks of op(A), one vec4
// each, whose elements reach the others by broadcasts from a constant lane: moves between registers. No workgroup
// memory, no barrier, no array indexed at run time. Measured against others in docs/performance.md.

// Lanes of a subgroup: 4, or a multiple of 8.
override WG: u32 = 8u;
// 8, 16 or 32.
override TILE_ROWS: u32 = 32u;
override TILE_COLUMNS: u32 = 4u * WG;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;
// C is stored n x m, so that a narrow product keeps all lanes busy.
override C_TRANSPOSED: bool = false;

// This lane's share of op(A)[row .. row + 8][t .. t + 4]. Lane l has row l; where A is stored transposed, lane l has
// step l % 4 of the rows 4 (l / 4) .. + 4. Steps past the last are zero.
fn load_a(tile: Tile, row: u32, t: u32, lane: u32) -> vec4<f32> {
    if A_TRANSPOSED {
        let step = t + lane % 4u;
        let quad = a_quad(tile.a_first + min(step, tile.k - 1u) * tile.a_stride, row + lane / 4u % 2u * 4u, tile.m);
        return select(vec4(0.0), quad, step < tile.k);
    }
    let quad = a_quad(tile.a_first + min(row + lane % 8u, tile.m - 1u) * tile.a_stride, t, tile.k);
    return select(vec4(0.0), quad, vec4(t, t + 1u, t + 2u, t + 3u) < vec4(tile.k));
}

// op(B)[t .. t + 4][column .. column + 4], a column of the matrix for each step.
fn load_b(tile: Tile, t: u32, column: u32) -> mat4x4<f32> {
    if B_TRANSPOSED {
        let last = tile.n - 1u;
        return transpose(mat4x4(b_quad(tile.b_first + min(column, last) * tile.b_stride, t, tile.k),
                                b_quad(tile.b_first + min(column + 1u, last) * tile.b_stride, t, tile.k),
                                b_quad(tile.b_first + min(column + 2u, last) * tile.b_stride, t, tile.k),
                                b_quad(tile.b_first + min(column + 3u, last) * tile.b_stride, t, tile.k)));
    }
    let last = tile.k - 1u;
    return mat4x4(b_quad(tile.b_first + min(t, last) * tile.b_stride, column, tile.n),
                  b_quad(tile.b_first + min(t + 1u, last) * tile.b_stride, column, tile.n),
                  b_quad(tile.b_first + min(t + 2u, last) * tile.b_stride, column, tile.n),
                  b_quad(tile.b_first + min(t + 3u, last) * tile.b_stride, column, tile.n));
}

// sum += op(A)[row .. row + 8][t .. t + 4] op(B)[t .. t + 4][the lane's columns]
fn accumulate(sum: ptr<function, array<vec4<f32>, 8>>, tile: Tile, row: u32, t: u32, lane: u32, b: mat4x4<f32>) {
    let low = load_a(tile, row, t, lane);
    // The second half: lanes 4 to 7, or, in a subgroup of four, the same lanes again.
    var high = low;
    if WG < 8u {
        high = load_a(tile, row + 4u, t, lane);
    }
    var half0 = mat4x4(subgroupBroadcast(low, 0u), subgroupBroadcast(low, 1u), subgroupBroadcast(low, 2u),
                       subgroupBroadcast(low, 3u));
    var half1: mat4x4<f32>;
    if WG < 8u {
        half1 = mat4x4(subgroupBroadcast(high, 0u), subgroupBroadcast(high, 1u), subgroupBroadcast(high, 2u),
                       subgroupBroadcast(high, 3u));
    } else {
        half1 = mat4x4(subgroupBroadcast(low, 4u), subgroupBroadcast(low, 5u), subgroupBroadcast(low, 6u),
                       subgroupBroadcast(low, 7u));
    }
    if A_TRANSPOSED {
        half0 = transpose(half0);
        half1 = transpose(half1);
    }
    (*sum)[0] += b * half0[0];
    (*sum)[1] += b * half0[1];
    (*sum)[2] += b * half0[2];
    (*sum)[3] += b * half0[3];
    (*sum)[4] += b * half1[0];
    (*sum)[5] += b * half1[1];
    (*sum)[6] += b * half1[2];
    (*sum)[7] += b * half1[3];
}

fn store_row(tile: Tile, row: u32, column: u32, sum: vec4<f32>) {
    if row < tile.m {
        store_quad(tile.c_first + row * tile.c_stride, column, tile.n, tile.alpha * sum, tile.beta);
    }
}

// Four rows of C, as four columns of what is stored.
fn store_columns(tile: Tile, row: u32, column: u32, block: mat4x4<f32>) {
    let columns = transpose(block);
    if column < tile.n {
        store_quad(tile.c_first + column * tile.c_stride, row, tile.m, tile.alpha * columns[0], tile.beta);
    }
    if column + 1u < tile.n {
        store_quad(tile.c_first + (column + 1u) * tile.c_stride, row, tile.m, tile.alpha * columns[1], tile.beta);
    }
    if column + 2u < tile.n {
        store_quad(tile.c_first + (column + 2u) * tile.c_stride, row, tile.m, tile.alpha * columns[2], tile.beta);
    }
    if column + 3u < tile.n {
        store_quad(tile.c_first + (column + 3u) * tile.c_stride, row, tile.m, tile.alpha * columns[3], tile.beta);
    }
}

fn store(sum: ptr<function, array<vec4<f32>, 8>>, tile: Tile, row: u32, column: u32) {
    if C_TRANSPOSED {
        store_columns(tile, row, column, mat4x4((*sum)[0], (*sum)[1], (*sum)[2], (*sum)[3]));
        store_columns(tile, row + 4u, column, mat4x4((*sum)[4], (*sum)[5], (*sum)[6], (*sum)[7]));
    } else {
        store_row(tile, row, column, (*sum)[0]);
        store_row(tile, row + 1u, column, (*sum)[1]);
        store_row(tile, row + 2u, column, (*sum)[2]);
        store_row(tile, row + 3u, column, (*sum)[3]);
        store_row(tile, row + 4u, column, (*sum)[4]);
        store_row(tile, row + 5u, column, (*sum)[5]);
        store_row(tile, row + 6u, column, (*sum)[6]);
        store_row(tile, row + 7u, column, (*sum)[7]);
    }
}

fn multiply(tile: Tile, lane: u32) {
    let column = tile.column + lane * 4u;
    // The rows of the tile, eight by eight.
    var sum0: array<vec4<f32>, 8>;
    var sum1: array<vec4<f32>, 8>;
    var sum2: array<vec4<f32>, 8>;
    var sum3: array<vec4<f32>, 8>;
    for (var t = 0u; t < tile.k; t += 4u) {
        let block = load_b(tile, t, column);
        accumulate(&sum0, tile, tile.row, t, lane, block);
        if TILE_ROWS > 8u {
            accumulate(&sum1, tile, tile.row + 8u, t, lane, block);
        }
        if TILE_ROWS > 16u {
            accumulate(&sum2, tile, tile.row + 16u, t, lane, block);
            accumulate(&sum3, tile, tile.row + 24u, t, lane, block);
        }
    }
    store(&sum0, tile, tile.row, column);
    if TILE_ROWS > 8u {
        store(&sum1, tile, tile.row + 8u, column);
    }
    if TILE_ROWS > 16u {
        store(&sum2, tile, tile.row + 16u, column);
        store(&sum3, tile, tile.row + 24u, column);
    }
}
