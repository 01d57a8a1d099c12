// Blocks of 16 x 16, each of four blocks of 8 x 8 that a subgroup holds: what gemm/cooperative_16.wgsl is, for matrix units that know
// no larger ones. Workgroup memory is in single elements, as Metal loads a block from a pointer to its elements;
// positions and strides are given in fours.
//
// provides: matrix_block
// needs: gemm/subgroup_of.wgsl

alias SmallA = coop_mat8x8<f16, A>;
alias SmallB = coop_mat8x8<f16, B>;
alias SmallC = coop_mat8x8<f32, C>;

// Each by the row and the column of the smaller block.
struct BlockA {
    of00: SmallA,
    of01: SmallA,
    of10: SmallA,
    of11: SmallA,
}

struct BlockB {
    of00: SmallB,
    of01: SmallB,
    of10: SmallB,
    of11: SmallB,
}

struct BlockC {
    of00: SmallC,
    of01: SmallC,
    of10: SmallC,
    of11: SmallC,
}

override A_ELEMENTS: u32 = 4u * A_FOURS;
override B_ELEMENTS: u32 = 4u * B_FOURS;
override SUM_ELEMENTS: u32 = 4u * SUM_FOURS;

var<workgroup> a_part: array<f16, A_ELEMENTS>;
var<workgroup> b_part: array<f16, B_ELEMENTS>;
var<workgroup> sum_part: array<f32, SUM_ELEMENTS>;

fn put_a(at: u32, four: vec4<f16>) {
    a_part[4u * at] = four.x;
    a_part[4u * at + 1u] = four.y;
    a_part[4u * at + 2u] = four.z;
    a_part[4u * at + 3u] = four.w;
}

fn put_b(at: u32, four: vec4<f16>) {
    b_part[4u * at] = four.x;
    b_part[4u * at + 1u] = four.y;
    b_part[4u * at + 2u] = four.z;
    b_part[4u * at + 3u] = four.w;
}

fn four_of_sums(at: u32) -> vec4<f32> {
    return vec4(sum_part[4u * at], sum_part[4u * at + 1u], sum_part[4u * at + 2u], sum_part[4u * at + 3u]);
}

fn a_by_rows(first: u32, stride: u32) -> BlockA {
    let at = 4u * first;
    let below = at + 32u * stride;
    let elements = 4u * stride;
    return BlockA(
        coopLoadT<SmallA>(&a_part[at], elements), coopLoadT<SmallA>(&a_part[at + 8u], elements),
        coopLoadT<SmallA>(&a_part[below], elements), coopLoadT<SmallA>(&a_part[below + 8u], elements),
    );
}

fn a_by_columns(first: u32, stride: u32) -> BlockA {
    let at = 4u * first;
    let beside = at + 32u * stride;
    let elements = 4u * stride;
    return BlockA(
        coopLoad<SmallA>(&a_part[at], elements), coopLoad<SmallA>(&a_part[beside], elements),
        coopLoad<SmallA>(&a_part[at + 8u], elements), coopLoad<SmallA>(&a_part[beside + 8u], elements),
    );
}

fn b_by_rows(first: u32, stride: u32) -> BlockB {
    let at = 4u * first;
    let below = at + 32u * stride;
    let elements = 4u * stride;
    return BlockB(
        coopLoadT<SmallB>(&b_part[at], elements), coopLoadT<SmallB>(&b_part[at + 8u], elements),
        coopLoadT<SmallB>(&b_part[below], elements), coopLoadT<SmallB>(&b_part[below + 8u], elements),
    );
}

fn b_by_columns(first: u32, stride: u32) -> BlockB {
    let at = 4u * first;
    let beside = at + 32u * stride;
    let elements = 4u * stride;
    return BlockB(
        coopLoad<SmallB>(&b_part[at], elements), coopLoad<SmallB>(&b_part[beside], elements),
        coopLoad<SmallB>(&b_part[at + 8u], elements), coopLoad<SmallB>(&b_part[beside + 8u], elements),
    );
}

fn multiply_add(left: BlockA, right: BlockB, sum: BlockC) -> BlockC {
    return BlockC(
        coopMultiplyAdd(left.of01, right.of10, coopMultiplyAdd(left.of00, right.of00, sum.of00)),
        coopMultiplyAdd(left.of01, right.of11, coopMultiplyAdd(left.of00, right.of01, sum.of01)),
        coopMultiplyAdd(left.of11, right.of10, coopMultiplyAdd(left.of10, right.of00, sum.of10)),
        coopMultiplyAdd(left.of11, right.of11, coopMultiplyAdd(left.of10, right.of01, sum.of11)),
    );
}

fn sum_to_part(sum: BlockC, first: u32) {
    let at = 4u * first;
    // naga 30 panics where stride or place are written in the call.
    let stride = 4u * SUM_STRIDE;
    let beside = at + 8u;
    let below = at + 8u * stride;
    let across = below + 8u;
    coopStoreT(sum.of00, &sum_part[at], stride);
    coopStoreT(sum.of01, &sum_part[beside], stride);
    coopStoreT(sum.of10, &sum_part[below], stride);
    coopStoreT(sum.of11, &sum_part[across], stride);
}
