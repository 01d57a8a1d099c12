// The part of a tile that a subgroup multiplies on matrix units: 32 x 64 of C, two by four blocks. For six blocks read from workgroup
// memory there are eight products, where gemm/cooperative_2x2.wgsl has four for four.
//
// provides: multiply
// needs: gemm/cooperative.wgsl

const PART_COLUMNS: u32 = 64u;

fn multiply(tile: Tile, lane: u32) {
    let own = part_of(lane);
    var sum00 = BlockC();
    var sum01 = BlockC();
    var sum02 = BlockC();
    var sum03 = BlockC();
    var sum10 = BlockC();
    var sum11 = BlockC();
    var sum12 = BlockC();
    var sum13 = BlockC();
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
                sum00 = multiply_add(a0, b0, sum00);
                sum10 = multiply_add(a1, b0, sum10);
                let b1 = block_of_b(step, own.column + SIDE);
                sum01 = multiply_add(a0, b1, sum01);
                sum11 = multiply_add(a1, b1, sum11);
                let b2 = block_of_b(step, own.column + 2u * SIDE);
                sum02 = multiply_add(a0, b2, sum02);
                sum12 = multiply_add(a1, b2, sum12);
                let b3 = block_of_b(step, own.column + 3u * SIDE);
                sum03 = multiply_add(a0, b3, sum03);
                sum13 = multiply_add(a1, b3, sum13);
            }
        }
        workgroupBarrier();
    }
    store_block(sum00, tile, own, 0u, 0u);
    store_block(sum01, tile, own, 0u, SIDE);
    store_block(sum02, tile, own, 0u, 2u * SIDE);
    store_block(sum03, tile, own, 0u, 3u * SIDE);
    store_block(sum10, tile, own, SIDE, 0u);
    store_block(sum11, tile, own, SIDE, SIDE);
    store_block(sum12, tile, own, SIDE, 2u * SIDE);
    store_block(sum13, tile, own, SIDE, 3u * SIDE);
}
