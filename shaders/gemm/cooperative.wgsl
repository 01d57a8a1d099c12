// One tile of a matrix product on matrix units (tensor cores): f16 operands, f32 sums, blocks of 16 x 16 x 16 that the
// lanes of a subgroup hold together.
//
// Four subgroups, two by two, share a tile of 64 x 64; each has 32 x 32 of it in four blocks. For 32 steps of k the
// workgroup loads 64 x 32 of op(A) and 32 x 64 of op(B) into workgroup memory as they are stored, zeros outside the
// matrices; a subgroup then loads two blocks of each for every 16 steps. That is 16 operations (8 multiplications, 8 additions) for a
// byte read from workgroup memory and 32 for one read from the matrices. The tile has the rows of gemm/workgroup.wgsl's,
// as the tiles of grouped rows must suit both; with 15 KiB a workgroup, several of them on a core hide each other's loads. Where
// subgroups have 32 lanes or more, a thread has the next steps' fours in registers while these are multiplied.
//
// The sums go to C through workgroup memory, a block of each subgroup at a time: so alpha, beta, C's type and its edges
// are dealt with by element. Rows of A, B and C, as stored, have multiples of 4 elements.
//
// provides: multiply
// needs: lib/gemm_tile.wgsl, gemm/load_vec4.wgsl, gemm/store_vec4.wgsl, matrix_block

// Lanes of a subgroup, which must be known beforehand.
override LANES: u32 = 32u;
override WG: u32 = 4u * LANES;
const TILE_ROWS: u32 = 64u;
const TILE_COLUMNS: u32 = 64u;
const STEPS: u32 = 32u;
const SIDE: u32 = 16u;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;

// Fours between neighbouring rows of a part: of 32 steps, or of 64 rows or columns. The two fours more put eight rows of
// 16 bytes into different banks, and keep each row at a multiple of 16 bytes, as Vulkan demands.
const SHORT: u32 = 10u;
const LONG: u32 = 18u;
// Fours between neighbouring rows of a block of sums, and of a block.
const SUM_STRIDE: u32 = 5u;
const SUM_BLOCK: u32 = SIDE * SUM_STRIDE;

// 64 x SHORT is more than 32 x LONG.
var<workgroup> a_part: array<vec4<f16>, 640>;
var<workgroup> b_part: array<vec4<f16>, 640>;
var<workgroup> sum_part: array<vec4<f32>, 320>;

// Fours of a part that a thread loads. Up to four wait in registers while the steps before are multiplied.
override FOURS: u32 = TILE_ROWS * STEPS / 4u / WG;
override AHEAD: bool = FOURS <= 4u;

// The four `i` of the part of A from step t on, and where it is kept; zeros outside.
fn four_of_a(tile: Tile, t: u32, i: u32) -> vec4<f16> {
    let step = t + select(i % 8u * 4u, i / 16u, A_TRANSPOSED);
    let row = tile.row + select(i / 8u, i % 16u * 4u, A_TRANSPOSED);
    if row < tile.m && step < tile.k {
        let element = tile.a_first + select(row * tile.a_stride + step, step * tile.a_stride + row, A_TRANSPOSED);
        return vec4<f16>(a[element / 4u]);
    }
    return vec4<f16>();
}

fn put_a(i: u32, four: vec4<f16>) {
    a_part[select(i / 8u * SHORT + i % 8u, i / 16u * LONG + i % 16u, A_TRANSPOSED)] = four;
}

fn four_of_b(tile: Tile, t: u32, i: u32) -> vec4<f16> {
    let step = t + select(i / 16u, i % 8u * 4u, B_TRANSPOSED);
    let column = tile.column + select(i % 16u * 4u, i / 8u, B_TRANSPOSED);
    if column < tile.n && step < tile.k {
        let element =
            tile.b_first + select(step * tile.b_stride + column, column * tile.b_stride + step, B_TRANSPOSED);
        return vec4<f16>(b[element / 4u]);
    }
    return vec4<f16>();
}

fn put_b(i: u32, four: vec4<f16>) {
    b_part[select(i / 16u * LONG + i % 16u, i / 8u * SHORT + i % 8u, B_TRANSPOSED)] = four;
}

// Fours of a thread, of both parts.
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
    if FOURS > 1u {
        held.a1 = four_of_a(tile, t, lane + WG);
        held.b1 = four_of_b(tile, t, lane + WG);
    }
    if FOURS > 2u {
        held.a2 = four_of_a(tile, t, lane + 2u * WG);
        held.b2 = four_of_b(tile, t, lane + 2u * WG);
        held.a3 = four_of_a(tile, t, lane + 3u * WG);
        held.b3 = four_of_b(tile, t, lane + 3u * WG);
    }
    return held;
}

fn put(lane: u32, held: Held) {
    put_a(lane, held.a0);
    put_b(lane, held.b0);
    if FOURS > 1u {
        put_a(lane + WG, held.a1);
        put_b(lane + WG, held.b1);
    }
    if FOURS > 2u {
        put_a(lane + 2u * WG, held.a2);
        put_b(lane + 2u * WG, held.b2);
        put_a(lane + 3u * WG, held.a3);
        put_b(lane + 3u * WG, held.b3);
    }
}

// op(A)[row .. row + 16][step .. step + 16] of the part.
fn block_of_a(row: u32, step: u32) -> BlockA {
    if A_TRANSPOSED {
        return a_by_columns(step * LONG + row / 4u, LONG);
    }
    return a_by_rows(row * SHORT + step / 4u, SHORT);
}

// op(B)[step .. step + 16][column .. column + 16] of the part.
fn block_of_b(step: u32, column: u32) -> BlockB {
    if B_TRANSPOSED {
        return b_by_columns(column * SHORT + step / 4u, SHORT);
    }
    return b_by_rows(step * LONG + column / 4u, LONG);
}

// Stores a block of sums of each subgroup, at `row` and `column` of C.
fn store_block(sum: BlockC, tile: Tile, row: u32, column: u32, lane: u32) {
    let first = lane / LANES * SUM_BLOCK;
    sum_to_part(sum, first);
    workgroupBarrier();
    for (var i = lane % LANES; i < SIDE * SIDE / 4u; i += LANES) {
        let r = row + i / 4u;
        let four = column + i % 4u * 4u;
        let inside = r < tile.m && four < tile.n;
        let value = tile.alpha * sum_part[first + i / 4u * SUM_STRIDE + i % 4u];
        store_quad(tile.c_first + r * tile.c_stride + four, value, 0u, select(0u, 4u, inside), tile.beta);
    }
    workgroupBarrier();
}

fn multiply(tile: Tile, lane: u32) {
    let subgroup = lane / LANES;
    let row = subgroup / 2u * 32u;
    let column = subgroup % 2u * 32u;
    var sum00 = BlockC();
    var sum01 = BlockC();
    var sum10 = BlockC();
    var sum11 = BlockC();
    var held: Held;
    if AHEAD {
        held = fetch(tile, 0u, lane);
    }
    for (var t = 0u; t < tile.k; t += STEPS) {
        if AHEAD {
            put(lane, held);
        } else {
            for (var i = lane; i < FOURS * WG; i += WG) {
                put_a(i, four_of_a(tile, t, i));
                put_b(i, four_of_b(tile, t, i));
            }
        }
        workgroupBarrier();
        if AHEAD && t + STEPS < tile.k {
            held = fetch(tile, t + STEPS, lane);
        }
        for (var step = 0u; step < STEPS; step += SIDE) {
            let a0 = block_of_a(row, step);
            let a1 = block_of_a(row + SIDE, step);
            let b0 = block_of_b(step, column);
            let b1 = block_of_b(step, column + SIDE);
            sum00 = multiply_add(a0, b0, sum00);
            sum01 = multiply_add(a0, b1, sum01);
            sum10 = multiply_add(a1, b0, sum10);
            sum11 = multiply_add(a1, b1, sum11);
        }
        workgroupBarrier();
    }
    store_block(sum00, tile, tile.row + row, tile.column + column, lane);
    store_block(sum01, tile, tile.row + row, tile.column + column + SIDE, lane);
    store_block(sum10, tile, tile.row + row + SIDE, tile.column + column, lane);
    store_block(sum11, tile, tile.row + row + SIDE, tile.column + column + SIDE, lane);
}
