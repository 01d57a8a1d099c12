// One tile of a matrix product by one subgroup, for adapters where registers are fast and barriers slow (software).
// At least 4 rows, 4 columns and 4 steps of k.
//
// A workgroup is one subgroup. Lanes go along the columns, four each, twice where COLUMN_BLOCKS is 2 (side by side with
// software/product_load_u64.wgsl); a lane holds TILE_ROWS rows of its columns. For four steps of k a lane loads its 4 x 4 blocks of
// op(B), and all lanes together load 8 x 4 blocks of op(A), one vec4 each, whose elements reach the others by broadcasts
// from a constant lane: moves between registers. No workgroup memory, no barrier, no array indexed at run time. llvmpipe
// makes of each load a loop over the lanes of some 46 instructions each, so loads are about half of all instructions and
// large tiles pay, although their sums lie in the L1 cache, not in registers. Between the loads of A the sums of eight rows
// are one basic block; those of sixteen are compiled to code that is slower by half. Measured against others in
// docs/notes/software-drivers.md.
//
// Rows, columns and steps come in fours. The last four are moved back to end with the matrix: rows and columns that
// another four has too are computed and not stored, steps that were counted already get the factor zero. So nothing in
// the loop depends on the edges. Operands may also be padded beyond C's last row or column, which is where
// c_rows and c_columns are below m and n.
//
// provides: multiply
// needs: software/product_tile.wgsl, product_blocks, store

// Lanes of a subgroup: 4, or a multiple of 8.
override WG: u32 = 8u;
// 8, 16 or 32.
override TILE_ROWS: u32 = 32u;
// 1 or 2.
override COLUMN_BLOCKS: u32 = 2u;
override TILE_COLUMNS: u32 = 4u * WG * COLUMN_BLOCKS;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;
// C is stored n x m, so that a narrow product keeps all lanes busy.
override C_TRANSPOSED: bool = false;
// The number of steps may be no multiple of 4.
override K_TAIL: bool = false;
// op(B) is as stored, and no other tile reads what this one does: it comes from memory, in short pieces of rows.
override B_ONCE: bool = false;
// Little code, for compilers that take long over much: the sums are stored by a loop over blocks of 4 x 4, selected by a switch, not
// each by code of its own. llvmpipe makes of a store some ten basic blocks a component, and of Mesa 25's time for one product five
// sixths went into those of its stores. (An array indexed at run time instead of the switch takes Mesa 22 ten times as long.)
override COMPACT: bool = false;

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

// op(B)[t .. t + 4] of the lane's two blocks of four columns (with COLUMN_BLOCKS = 1 of the first), a column of the matrix for
// each step.
struct Blocks {
    first: mat4x4<f32>,
    second: mat4x4<f32>,
}

// op(A)[8 rows][t .. t + 4], four rows each; `low` is this lane's share of the rows, `high` that of the last four where a
// subgroup has only four lanes.
struct Rows8 {
    low: mat4x4<f32>,
    high: mat4x4<f32>,
}

fn spread(low: vec4<f32>, high: vec4<f32>) -> Rows8 {
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
    return Rows8(four0, four1);
}

// sum += op(A)[8 rows][t .. t + 4] op(B)[t .. t + 4][the lane's columns]
fn accumulate(sum: ptr<function, array<vec4<f32>, 8>>, rows: Rows8, b: mat4x4<f32>) {
    (*sum)[0] += b * rows.low[0];
    (*sum)[1] += b * rows.low[1];
    (*sum)[2] += b * rows.low[2];
    (*sum)[3] += b * rows.low[3];
    (*sum)[4] += b * rows.high[0];
    (*sum)[5] += b * rows.high[1];
    (*sum)[6] += b * rows.high[2];
    (*sum)[7] += b * rows.high[3];
}

// Elements of a cache line.
const LINE: u32 = 16u;
// Steps whose op(B) is asked for at once.
const STEPS_AHEAD: u32 = 8u;

// Reads an element of each cache line of op(B)[t .. t + STEPS_AHEAD][the tile's columns], a line a lane; gives their bits,
// or-ed. The product's own loads are so many instructions that a processor has two or three lines underway before it waits
// for them; these follow each other closely. Measured: 1.7 times the rate of the whole.
fn touch_b(tile: Tile, t: u32, lane: u32) -> u32 {
    let lines = TILE_COLUMNS / LINE;
    let column = min(tile.column + lane % lines * LINE, tile.n - 1u);
    var bits = 0u;
    for (var step = 0u; step < STEPS_AHEAD; step += WG / lines) {
        let row = min(t + step + lane / lines, tile.k - 1u);
        bits |= bitcast<u32>(b_element(tile.b_first + row * tile.b_stride + column));
    }
    return bits;
}

// How many of the four rows or columns from `first` on C has, of `count`.
fn kept(first: u32, count: u32) -> u32 {
    return min(count - min(first, count), 4u);
}

// The 4 x 4 block of C at `row` and `column`, of which some may be another's, or outside.
fn store_four(tile: Tile, row: u32, column: u32, sum: mat4x4<f32>) {
    let first_row = moved(row, tile.m);
    let first_column = moved(column, tile.n);
    var block = tile.alpha * sum;
    // As stored: the rows from `skipped_rows` to `rows` of the four, and likewise within a row.
    var index = tile.c_first + first_row * tile.c_stride + first_column;
    var skipped_rows = row - first_row;
    var rows = kept(first_row, tile.c_rows);
    var skipped = column - first_column;
    var columns = kept(first_column, tile.c_columns);
    if C_TRANSPOSED {
        block = transpose(block);
        index = tile.c_first + first_column * tile.c_stride + first_row;
        skipped_rows = column - first_column;
        rows = kept(first_column, tile.c_columns);
        skipped = row - first_row;
        columns = kept(first_row, tile.c_rows);
    }
    if skipped_rows < 1u && rows > 0u {
        store_quad(index, block[0], skipped, columns, tile.beta);
    }
    if skipped_rows < 2u && rows > 1u {
        store_quad(index + tile.c_stride, block[1], skipped, columns, tile.beta);
    }
    if skipped_rows < 3u && rows > 2u {
        store_quad(index + 2u * tile.c_stride, block[2], skipped, columns, tile.beta);
    }
    if skipped_rows < 4u && rows > 3u {
        store_quad(index + 3u * tile.c_stride, block[3], skipped, columns, tile.beta);
    }
}

fn store(sum: ptr<function, array<vec4<f32>, 8>>, tile: Tile, row: u32, column: u32) {
    store_four(tile, row, column, upper(sum));
    store_four(tile, row + 4u, column, lower(sum));
}

fn upper(sum: ptr<function, array<vec4<f32>, 8>>) -> mat4x4<f32> {
    return mat4x4((*sum)[0], (*sum)[1], (*sum)[2], (*sum)[3]);
}

fn lower(sum: ptr<function, array<vec4<f32>, 8>>) -> mat4x4<f32> {
    return mat4x4((*sum)[4], (*sum)[5], (*sum)[6], (*sum)[7]);
}

// Eight rows from `start`, or from `high_start` on for the last four where a subgroup has four lanes.
fn rows8(tile: Tile, start: u32, high_start: u32, t: u32, counted: u32, lane: u32) -> Rows8 {
    let low = load_a(tile, start, t, counted, lane);
    var high = low;
    if WG < 8u {
        high = load_a(tile, high_start, t, counted, lane);
    }
    return spread(low, high);
}

fn multiply(tile: Tile, lane: u32) {
    let columns = block_columns(tile, lane);
    let column0 = columns.x;
    let column1 = columns.y;
    let b_columns = loaded_columns(tile, columns);
    var row = tile.row;
    // The rows of the tile, eight by eight, and the blocks of columns.
    var sum00: array<vec4<f32>, 8>;
    var sum01: array<vec4<f32>, 8>;
    var sum10: array<vec4<f32>, 8>;
    var sum11: array<vec4<f32>, 8>;
    var sum20: array<vec4<f32>, 8>;
    var sum21: array<vec4<f32>, 8>;
    var sum30: array<vec4<f32>, 8>;
    var sum31: array<vec4<f32>, 8>;
    let start0 = a_start(tile, row, lane);
    let start1 = a_start(tile, row + 8u, lane);
    let start2 = a_start(tile, row + 16u, lane);
    let start3 = a_start(tile, row + 24u, lane);
    let high0 = a_start(tile, row + 4u, lane);
    let high1 = a_start(tile, row + 12u, lane);
    let high2 = a_start(tile, row + 20u, lane);
    let high3 = a_start(tile, row + 28u, lane);
    var touched = 0u;
    for (var step = 0u; step < tile.k; step += 4u) {
        if B_ONCE && step % STEPS_AHEAD == 0u {
            touched |= touch_b(tile, step + STEPS_AHEAD, lane);
        }
        let t = select(step, moved(step, tile.k), K_TAIL);
        let counted = step - t;
        let blocks = load_blocks(tile, t, b_columns);
        let rows0 = rows8(tile, start0, high0, t, counted, lane);
        accumulate(&sum00, rows0, blocks.first);
        if COLUMN_BLOCKS > 1u {
            accumulate(&sum01, rows0, blocks.second);
        }
        if TILE_ROWS > 8u {
            let rows1 = rows8(tile, start1, high1, t, counted, lane);
            accumulate(&sum10, rows1, blocks.first);
            if COLUMN_BLOCKS > 1u {
                accumulate(&sum11, rows1, blocks.second);
            }
        }
        if TILE_ROWS > 16u {
            let rows2 = rows8(tile, start2, high2, t, counted, lane);
            accumulate(&sum20, rows2, blocks.first);
            if COLUMN_BLOCKS > 1u {
                accumulate(&sum21, rows2, blocks.second);
            }
            let rows3 = rows8(tile, start3, high3, t, counted, lane);
            accumulate(&sum30, rows3, blocks.first);
            if COLUMN_BLOCKS > 1u {
                accumulate(&sum31, rows3, blocks.second);
            }
        }
    }
    // Loads without a use are left out. The compiler does not know that m is never 0.
    if B_ONCE {
        row += select(0u, touched, tile.m == 0u);
    }
    if COMPACT {
        // Block by block, of each eight rows the upper four and the lower four.
        for (var i = 0u; i < TILE_ROWS / 4u; i++) {
            for (var j = 0u; j < COLUMN_BLOCKS; j++) {
                var sum = upper(&sum00);
                switch 2u * i + j {
                    case 1u: { sum = upper(&sum01); }
                    case 2u: { sum = lower(&sum00); }
                    case 3u: { sum = lower(&sum01); }
                    case 4u: { sum = upper(&sum10); }
                    case 5u: { sum = upper(&sum11); }
                    case 6u: { sum = lower(&sum10); }
                    case 7u: { sum = lower(&sum11); }
                    case 8u: { sum = upper(&sum20); }
                    case 9u: { sum = upper(&sum21); }
                    case 10u: { sum = lower(&sum20); }
                    case 11u: { sum = lower(&sum21); }
                    case 12u: { sum = upper(&sum30); }
                    case 13u: { sum = upper(&sum31); }
                    case 14u: { sum = lower(&sum30); }
                    case 15u: { sum = lower(&sum31); }
                    default: {}
                }
                store_four(tile, row + 4u * i, select(column0, column1, j == 1u), sum);
            }
        }
        return;
    }
    store(&sum00, tile, row, column0);
    if COLUMN_BLOCKS > 1u {
        store(&sum01, tile, row, column1);
    }
    if TILE_ROWS > 8u {
        store(&sum10, tile, row + 8u, column0);
        if COLUMN_BLOCKS > 1u {
            store(&sum11, tile, row + 8u, column1);
        }
    }
    if TILE_ROWS > 16u {
        store(&sum20, tile, row + 16u, column0);
        if COLUMN_BLOCKS > 1u {
            store(&sum21, tile, row + 16u, column1);
        }
        store(&sum30, tile, row + 24u, column0);
        if COLUMN_BLOCKS > 1u {
            store(&sum31, tile, row + 24u, column1);
        }
    }
}
