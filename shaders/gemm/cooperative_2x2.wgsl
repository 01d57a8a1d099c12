// The part of a tile that a subgroup multiplies on matrix units: 32 x 32 of C, two by two blocks.
//
// provides: multiply
// needs: gemm/cooperative.wgsl

const PART_COLUMNS: u32 = 32u;

fn multiply(tile: Tile, lane: u32) {
    let own = part_of(lane);
    var sum00 = BlockC();
    var sum01 = BlockC();
    var sum10 = BlockC();
    var sum11 = BlockC();
    var held: Held;
    if AHEAD {
        held = fetch(tile, 0u, lane);
    }
    for (var t = 0u; t < tile.k; t += STEPS) {
        stage(tile, t, lane, held);
        if AHEAD && t + STEPS < tile.k {
            held = fetch(tile, t + STEPS, lane);
        }
        if own.works {
            for (var step = 0u; step < STEPS; step += SIDE) {
                let a0 = block_of_a(own.row, step);
                let a1 = block_of_a(own.row + SIDE, step);
                let b0 = block_of_b(step, own.column);
                let b1 = block_of_b(step, own.column + SIDE);
                sum00 = multiply_add(a0, b0, sum00);
                sum01 = multiply_add(a0, b1, sum01);
                sum10 = multiply_add(a1, b0, sum10);
                sum11 = multiply_add(a1, b1, sum11);
            }
        }
        workgroupBarrier();
    }
    store_block(sum00, tile, own, 0u, 0u);
    store_block(sum01, tile, own, 0u, SIDE);
    store_block(sum10, tile, own, SIDE, 0u);
    store_block(sum11, tile, own, SIDE, SIDE);
}
