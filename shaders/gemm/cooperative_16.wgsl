// Blocks of 16 x 16 held by a subgroup: all that is asked of the device's matrix units, and the workgroup memory of
// gemm/cooperative.wgsl, in fours of elements, as are positions and strides.
//
// By itself, so that blocks of another size can take their place, and in a test blocks held by each lane, where no
// adapter has matrix units.
//
// provides: matrix_block
// needs: gemm/subgroup_of.wgsl

alias BlockA = coop_mat16x16<f16, A>;
alias BlockB = coop_mat16x16<f16, B>;
alias BlockC = coop_mat16x16<f32, C>;

var<workgroup> a_part: array<vec4<f16>, A_FOURS>;
var<workgroup> b_part: array<vec4<f16>, B_FOURS>;
var<workgroup> sum_part: array<vec4<f32>, SUM_FOURS>;

fn put_a(at: u32, four: vec4<f16>) {
    a_part[at] = four;
}

fn put_b(at: u32, four: vec4<f16>) {
    b_part[at] = four;
}

fn four_of_sums(at: u32) -> vec4<f32> {
    return sum_part[at];
}

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
