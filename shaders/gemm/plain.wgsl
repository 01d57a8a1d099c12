// One tile of a matrix product, a block of 4 x 4 of C in the registers of each thread, the operands straight from storage: the form
// without anything optional. Workgroup memory and barriers, which it does without, are slow on drivers that compute on the processor.
//
// provides: multiply
// needs: lib/gemm_tile.wgsl, gemm/blocks.wgsl, store

const WG: u32 = 64u;
const TILE_ROWS: u32 = 32u;
const TILE_COLUMNS: u32 = 32u;

fn multiply(tile: Tile, lane: u32) {
    let row = tile.row + lane / (TILE_COLUMNS / 4u) * 4u;
    let column = tile.column + lane % (TILE_COLUMNS / 4u) * 4u;
    if row >= tile.m || column >= tile.n {
        return;
    }
    var r0 = vec4(0.0);
    var r1 = vec4(0.0);
    var r2 = vec4(0.0);
    var r3 = vec4(0.0);
    // In the order of k, each product added by itself.
    for (var step = 0u; step < tile.k; step += 4u) {
        let a = a_block(tile, row, step);
        let b = b_block(tile, step, column);
        r0 += a[0].x * b[0];
        r1 += a[0].y * b[0];
        r2 += a[0].z * b[0];
        r3 += a[0].w * b[0];
        r0 += a[1].x * b[1];
        r1 += a[1].y * b[1];
        r2 += a[1].z * b[1];
        r3 += a[1].w * b[1];
        r0 += a[2].x * b[2];
        r1 += a[2].y * b[2];
        r2 += a[2].z * b[2];
        r3 += a[2].w * b[2];
        r0 += a[3].x * b[3];
        r1 += a[3].y * b[3];
        r2 += a[3].z * b[3];
        r3 += a[3].w * b[3];
    }
    store_four(tile, row, column, r0);
    store_four(tile, row + 1u, column, r1);
    store_four(tile, row + 2u, column, r2);
    store_four(tile, row + 3u, column, r3);
}
