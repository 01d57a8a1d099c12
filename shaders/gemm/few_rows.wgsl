// One tile of a matrix product with up to four rows: a token that is generated meets each weight once, so what counts is how fast
// op(B) comes from memory.
//
// A workgroup has COLUMN_FOURS fours of columns, and shares the sums over k among K_GROUPS threads each, whose parts it adds in their
// order at the end. Neighbouring threads read what lies side by side: along the columns, or along k where B is stored so.
//
// provides: multiply
// needs: lib/gemm_tile.wgsl, gemm/blocks.wgsl, store

const WG: u32 = 128u;
const TILE_ROWS: u32 = 4u;
override COLUMN_FOURS: u32 = 16u;
override TILE_COLUMNS: u32 = 4u * COLUMN_FOURS;
override K_GROUPS: u32 = WG / COLUMN_FOURS;
// Rows that are computed: 1, 2 or 4.
override ROWS: u32 = 4u;

// By row, thread of the sum, and four of columns.
var<workgroup> sums: array<vec4<f32>, 512>;

// op(A)[row][step .. step + 4], of A as it is stored.
fn a_steps(tile: Tile, row: u32, step: u32) -> vec4<f32> {
    let count = within(left(step, tile.k), row, tile.m);
    return a_edge(tile.a_first + row * tile.a_stride + step, count);
}

fn multiply(tile: Tile, lane: u32) {
    let four = select(lane % COLUMN_FOURS, lane / K_GROUPS, B_TRANSPOSED);
    let share = select(lane / COLUMN_FOURS, lane % K_GROUPS, B_TRANSPOSED);
    let column = tile.column + 4u * four;
    var r0 = vec4(0.0);
    var r1 = vec4(0.0);
    var r2 = vec4(0.0);
    var r3 = vec4(0.0);
    for (var step = 4u * share; step < tile.k; step += 4u * K_GROUPS) {
        // A column for each step.
        let b = b_block(tile, step, column);
        r0 += b * a_steps(tile, tile.row, step);
        if ROWS > 1u {
            r1 += b * a_steps(tile, tile.row + 1u, step);
        }
        if ROWS > 2u {
            r2 += b * a_steps(tile, tile.row + 2u, step);
            r3 += b * a_steps(tile, tile.row + 3u, step);
        }
    }
    let i = share * COLUMN_FOURS + four;
    sums[i] = r0;
    if ROWS > 1u {
        sums[i + WG] = r1;
    }
    if ROWS > 2u {
        sums[i + 2u * WG] = r2;
        sums[i + 3u * WG] = r3;
    }
    workgroupBarrier();
    for (var j = lane; j < ROWS * COLUMN_FOURS; j += WG) {
        let row = j / COLUMN_FOURS;
        let own = j % COLUMN_FOURS;
        var sum = vec4(0.0);
        for (var t = 0u; t < K_GROUPS; t++) {
            sum += sums[row * WG + t * COLUMN_FOURS + own];
        }
        store_four(tile, tile.row + row, tile.column + 4u * own, sum);
    }
}
