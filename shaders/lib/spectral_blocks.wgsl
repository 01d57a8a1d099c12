// A workgroup's share of a pass over decoupled matrices at rank 8, with the sums of both skinny products of what comes by: four rows at a
// time, each thread with four neighbouring columns. `params` has the fields matrices, rows, packs (a row's), experts, blocks and
// block_rows (the rows of a workgroup, a multiple of 4) and tiles (of columns); the bindings are
//   parts:   [matrices, blocks, 8, packs], U^T X of each block of rows
//   b_parts: [matrices, tiles, rows, 2], X V of each tile of columns
//
// needs: lanes

// Threads, a power of two and at least 8.
override WG: u32 = 64u;
// By name: naga 30 panics where a size without one stands before another override.
override PARTIAL: u32 = 8u * WG;

const RANK: u32 = 8u;
// Rows whose sums over the columns are made together, two vectors each.
const BATCH: u32 = 4u;

var<workgroup> partial: array<vec4<f32>, PARTIAL>;

struct Place {
    matrix: u32,
    layer: u32,
    block: u32,
    tile: u32,
    column: u32,
    lane: u32,
    // Whether its columns are there.
    inside: bool,
    first_row: u32,
    end_row: u32,
}

// Its columns are clamped to the stack.
fn place(workgroup: u32, lane: u32) -> Place {
    let block = workgroup / params.tiles;
    let matrix = block / params.blocks;
    let tile = workgroup % params.tiles;
    let column = tile * WG + lane;
    let first = block % params.blocks * params.block_rows;
    return Place(matrix, matrix / params.experts, block % params.blocks, tile, min(column, params.packs - 1u), lane,
                 column < params.packs, first, min(first + params.block_rows, params.rows));
}

// Eight vectors, one for each column of a basis.
struct Eight {
    r0: Pack,
    r1: Pack,
    r2: Pack,
    r3: Pack,
    r4: Pack,
    r5: Pack,
    r6: Pack,
    r7: Pack,
}

// A row of a thread's columns, 0 where there is none, and the row of U.
struct Row {
    x: Pack,
    u_low: vec4<f32>,
    u_high: vec4<f32>,
}

fn add_outer(sum: Eight, row: Row) -> Eight {
    return Eight(sum.r0 + row.u_low.x * row.x, sum.r1 + row.u_low.y * row.x, sum.r2 + row.u_low.z * row.x,
                 sum.r3 + row.u_low.w * row.x, sum.r4 + row.u_high.x * row.x, sum.r5 + row.u_high.y * row.x,
                 sum.r6 + row.u_high.z * row.x, sum.r7 + row.u_high.w * row.x);
}

// left[0..8] . rows
fn expand(low: vec4<f32>, high: vec4<f32>, rows: Eight) -> Pack {
    return ((low.x * rows.r0 + low.y * rows.r1) + (low.z * rows.r2 + low.w * rows.r3)) +
           ((high.x * rows.r4 + high.y * rows.r5) + (high.z * rows.r6 + high.w * rows.r7));
}

fn put(i: u32, at: Place, row: Row, v: Eight) {
    partial[2u * i * WG + at.lane] = vec4(dot(row.x, v.r0), dot(row.x, v.r1), dot(row.x, v.r2), dot(row.x, v.r3));
    partial[(2u * i + 1u) * WG + at.lane] = vec4(dot(row.x, v.r4), dot(row.x, v.r5), dot(row.x, v.r6), dot(row.x, v.r7));
}

// Adds up what `put` has put for four rows, and stores it.
fn finish_rows(at: Place, first: u32) {
    workgroupBarrier();
    // The threads that add up one sum at first.
    let share = WG / 8u;
    let own = at.lane / share * WG + at.lane % share;
    var sum = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        sum += partial[own + i * share];
    }
    workgroupBarrier();
    partial[at.lane] = sum;
    workgroupBarrier();
    let row = first + at.lane / 2u;
    if at.lane < 2u * BATCH && row < at.end_row {
        var total = vec4(0.0);
        for (var i = 0u; i < share; i++) {
            total += partial[at.lane * share + i];
        }
        b_parts[((at.matrix * params.tiles + at.tile) * params.rows + row) * 2u + at.lane % 2u] = total;
    }
    workgroupBarrier();
}

fn store_parts(at: Place, a: Eight) {
    if at.inside {
        let first = (at.matrix * params.blocks + at.block) * RANK * params.packs + at.column;
        parts[first] = a.r0;
        parts[first + params.packs] = a.r1;
        parts[first + 2u * params.packs] = a.r2;
        parts[first + 3u * params.packs] = a.r3;
        parts[first + 4u * params.packs] = a.r4;
        parts[first + 5u * params.packs] = a.r5;
        parts[first + 6u * params.packs] = a.r6;
        parts[first + 7u * params.packs] = a.r7;
    }
}
