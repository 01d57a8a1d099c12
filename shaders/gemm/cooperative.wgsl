// One tile of a matrix product on matrix units (tensor cores): f16 operands, f32 sums, blocks of 16 x 16 x 16 that the
// lanes of a subgroup hold together.
//
// Each subgroup has a part of the tile, 32 rows of it and PART_COLUMNS columns. For 32 steps of k the workgroup loads the tile's
// rows of op(A) and columns of op(B) into workgroup memory as they are stored, zeros outside the matrices; a subgroup
// then loads blocks of each for every 16 steps. Where subgroups have 32 lanes or more, a thread has the next steps' fours in registers
// while these are multiplied.
//
// The sums go to C through workgroup memory, a block of each subgroup at a time: so alpha, beta, C's type and its edges
// are dealt with by element. Rows of A, B and C, as stored, have multiples of 4 elements.
//
// A tile of 64 x 64 in four parts of 32 x 32 makes 16 operations (8 multiplications, 8 additions) for a byte read from
// workgroup memory and 32 for one read from the matrices, with 15 KiB a workgroup; one of 128 x 128 in eight parts of 32 x 64 makes
// 21 and 64, with 30 KiB.
//
// needs: lib/gemm_tile.wgsl, gemm/load_vec4.wgsl, gemm/store_vec4.wgsl, matrix_block

// Lanes of a subgroup, at most, and whether it may have fewer: more subgroups than there are parts then only load.
override LANES: u32 = 32u;
override VARYING: bool = false;
override TILE_ROWS: u32 = 64u;
override TILE_COLUMNS: u32 = 64u;
override PARTS: u32 = TILE_ROWS / PART_ROWS * (TILE_COLUMNS / PART_COLUMNS);
override WG: u32 = PARTS * LANES;
const PART_ROWS: u32 = 32u;
const STEPS: u32 = 32u;
const SIDE: u32 = 16u;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;

// Fours between neighbouring rows in workgroup memory: of 32 steps, or of the tile's rows or columns. The two fours more put eight rows
// of 16 bytes into different banks, and keep each row at a multiple of 16 bytes, as Vulkan demands.
const SHORT: u32 = 10u;
override LONG_A: u32 = TILE_ROWS / 4u + 2u;
override LONG_B: u32 = TILE_COLUMNS / 4u + 2u;
// Fours between neighbouring rows of a block of sums, and of a block.
const SUM_STRIDE: u32 = 5u;
const SUM_BLOCK: u32 = SIDE * SUM_STRIDE;

// What workgroup memory holds: 32 rows of LONG_A are less.
override A_FOURS: u32 = TILE_ROWS * SHORT;
override B_FOURS: u32 = TILE_COLUMNS * SHORT;
override SUM_FOURS: u32 = PARTS * SUM_BLOCK;

// Fours of op(A) and op(B) that a thread loads. Up to four wait in registers while the steps before are multiplied.
override OWN_A: u32 = TILE_ROWS * STEPS / 4u / WG;
override OWN_B: u32 = TILE_COLUMNS * STEPS / 4u / WG;
override AHEAD: bool = OWN_A <= 4u && OWN_B <= 4u;

// The part of the tile that is this thread's subgroup's.
struct Part {
    // Its number, and whether there is one.
    index: u32,
    works: bool,
    // Its first row and column within the tile.
    row: u32,
    column: u32,
    // The thread's lane, and the lanes of the subgroup.
    lane: u32,
    lanes: u32,
}

fn part_of(lane: u32) -> Part {
    let place = subgroup_of(lane);
    var part: Part;
    part.index = place.x;
    part.works = !VARYING || place.x < PARTS;
    part.row = place.x / (TILE_COLUMNS / PART_COLUMNS) * PART_ROWS;
    part.column = place.x % (TILE_COLUMNS / PART_COLUMNS) * PART_COLUMNS;
    part.lane = place.y;
    part.lanes = place.z;
    return part;
}

// The four `i` of the tile's op(A) from step t on; zeros outside.
fn four_of_a(tile: Tile, t: u32, i: u32) -> vec4<f16> {
    let step = t + select(i % 8u * 4u, i / (TILE_ROWS / 4u), A_TRANSPOSED);
    let row = tile.row + select(i / 8u, i % (TILE_ROWS / 4u) * 4u, A_TRANSPOSED);
    if row < tile.m && step < tile.k {
        let element = tile.a_first + select(row * tile.a_stride + step, step * tile.a_stride + row, A_TRANSPOSED);
        return vec4<f16>(a[element / 4u]);
    }
    return vec4<f16>();
}

// Where it is kept.
fn place_of_a(i: u32) -> u32 {
    return select(i / 8u * SHORT + i % 8u, i / (TILE_ROWS / 4u) * LONG_A + i % (TILE_ROWS / 4u), A_TRANSPOSED);
}

fn four_of_b(tile: Tile, t: u32, i: u32) -> vec4<f16> {
    let step = t + select(i / (TILE_COLUMNS / 4u), i % 8u * 4u, B_TRANSPOSED);
    let column = tile.column + select(i % (TILE_COLUMNS / 4u) * 4u, i / 8u, B_TRANSPOSED);
    if column < tile.n && step < tile.k {
        let element =
            tile.b_first + select(step * tile.b_stride + column, column * tile.b_stride + step, B_TRANSPOSED);
        return vec4<f16>(b[element / 4u]);
    }
    return vec4<f16>();
}

fn place_of_b(i: u32) -> u32 {
    return select(i / (TILE_COLUMNS / 4u) * LONG_B + i % (TILE_COLUMNS / 4u), i / 8u * SHORT + i % 8u, B_TRANSPOSED);
}

// Fours of a thread, of both operands.
struct Held {
    a0: vec4<f16>,
    a1: vec4<f16>,
    a2: vec4<f16>,
    a3: vec4<f16>,
    b0: vec4<f16>,
    b1: vec4<f16>,
    b2: vec4<f16>,
    b3: vec4<f16>,
}

fn fetch(tile: Tile, t: u32, lane: u32) -> Held {
    var held: Held;
    held.a0 = four_of_a(tile, t, lane);
    held.b0 = four_of_b(tile, t, lane);
    if OWN_A > 1u {
        held.a1 = four_of_a(tile, t, lane + WG);
    }
    if OWN_A > 2u {
        held.a2 = four_of_a(tile, t, lane + 2u * WG);
        held.a3 = four_of_a(tile, t, lane + 3u * WG);
    }
    if OWN_B > 1u {
        held.b1 = four_of_b(tile, t, lane + WG);
    }
    if OWN_B > 2u {
        held.b2 = four_of_b(tile, t, lane + 2u * WG);
        held.b3 = four_of_b(tile, t, lane + 3u * WG);
    }
    return held;
}

fn put(lane: u32, held: Held) {
    put_a(place_of_a(lane), held.a0);
    put_b(place_of_b(lane), held.b0);
    if OWN_A > 1u {
        put_a(place_of_a(lane + WG), held.a1);
    }
    if OWN_A > 2u {
        put_a(place_of_a(lane + 2u * WG), held.a2);
        put_a(place_of_a(lane + 3u * WG), held.a3);
    }
    if OWN_B > 1u {
        put_b(place_of_b(lane + WG), held.b1);
    }
    if OWN_B > 2u {
        put_b(place_of_b(lane + 2u * WG), held.b2);
        put_b(place_of_b(lane + 3u * WG), held.b3);
    }
}

// Has the steps from t on in workgroup memory: those that are held, where they were fetched before.
fn stage(tile: Tile, t: u32, lane: u32, held: Held) {
    if AHEAD {
        put(lane, held);
    } else {
        for (var i = lane; i < OWN_A * WG; i += WG) {
            put_a(place_of_a(i), four_of_a(tile, t, i));
        }
        for (var i = lane; i < OWN_B * WG; i += WG) {
            put_b(place_of_b(i), four_of_b(tile, t, i));
        }
    }
    workgroupBarrier();
}

// op(A)[row .. row + 16][step .. step + 16] of the tile's.
fn block_of_a(row: u32, step: u32) -> BlockA {
    if A_TRANSPOSED {
        return a_by_columns(step * LONG_A + row / 4u, LONG_A);
    }
    return a_by_rows(row * SHORT + step / 4u, SHORT);
}

// op(B)[step .. step + 16][column .. column + 16] of the tile's.
fn block_of_b(step: u32, column: u32) -> BlockB {
    if B_TRANSPOSED {
        return b_by_columns(column * SHORT + step / 4u, SHORT);
    }
    return b_by_rows(step * LONG_B + column / 4u, LONG_B);
}

// Stores a block of sums of each subgroup, at `row` and `column` of its part.
fn store_block(sum: BlockC, tile: Tile, own: Part, row: u32, column: u32) {
    let first = own.index * SUM_BLOCK;
    if own.works {
        sum_to_part(sum, first);
    }
    workgroupBarrier();
    if own.works {
        for (var i = own.lane; i < SIDE * SIDE / 4u; i += own.lanes) {
            let r = tile.row + own.row + row + i / 4u;
            let four = tile.column + own.column + column + i % 4u * 4u;
            let inside = r < tile.m && four < tile.n;
            let value = tile.alpha * four_of_sums(first + i / 4u * SUM_STRIDE + i % 4u);
            store_quad(tile.c_first + r * tile.c_stride + four, value, 0u, select(0u, 4u, inside), tile.beta);
        }
    }
    workgroupBarrier();
}
