// Blocks of 16 x 16 held by a subgroup: all that is asked of the device's matrix units. Positions and strides count fours of elements.
//
// By itself, so that blocks of another size can take their place, and in a test blocks held by each lane, where no
// adapter has matrix units.
//
// provides: matrix_block
// needs: gemm/subgroup_of.wgsl, gemm/cooperative_fours.wgsl

alias BlockA = coop_mat16x16<f16, A>;
alias BlockB = coop_mat16x16<f16, B>;
alias BlockC = coop_mat16x16<f32, C>;

fn a_by_rows(first: u32, stride: u32) -> BlockA {
    return coopLoadT<BlockA>(&a_part[first], stride);
}

fn a_by_columns(first: u32, stride: u32) -> BlockA {
    return coopLoad<BlockA>(&a_part[first], stride);
}

fn b_by_rows(first: u32, stride: u32) -> BlockB {
    return coopLoadT<BlockB>(&b_part[first], stride);
}

fn b_by_columns(first: u32, stride: u32) -> BlockB {
    return coopLoad<BlockB>(&b_part[first], stride);
}

fn multiply_add(left: BlockA, right: BlockB, sum: BlockC) -> BlockC {
    return coopMultiplyAdd(left, right, sum);
}

fn sum_to_part(sum: BlockC, first: u32) {
    // naga 30 panics where the stride is written in the call.
    let stride = SUM_STRIDE;
    coopStoreT(sum, &sum_part[first], stride);
}
