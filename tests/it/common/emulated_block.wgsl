// In place of gemm/cooperative_16.wgsl where an adapter has no matrix units: every lane computes whole blocks, f16
// operands, f32 sums. A block is where it lies in workgroup memory, which nobody writes before it is multiplied; sums lie
// in slots of private memory, of which slot 0 stays zero. (Blocks held as values take llvmpipe minutes to compile.)
//
// provides: matrix_block
// needs: gemm/cooperative_fours.wgsl

struct Block {
    first: u32,
    stride: u32,
    by_columns: bool,
}

struct Sum {
    slot: u32,
}

alias BlockA = Block;
alias BlockB = Block;
alias BlockC = Sum;

var<private> slots: u32;
// Four blocks, and the one of zeros.
var<private> sums: array<vec4<f32>, 320>;

// Whatever the adapter's subgroups are.
fn subgroup_of(thread: u32) -> vec3<u32> {
    return vec3(thread / LANES, thread % LANES, LANES);
}

fn a_by_rows(first: u32, stride: u32) -> Block {
    return Block(first, stride, false);
}

fn a_by_columns(first: u32, stride: u32) -> Block {
    return Block(first, stride, true);
}

fn b_by_rows(first: u32, stride: u32) -> Block {
    return Block(first, stride, false);
}

fn b_by_columns(first: u32, stride: u32) -> Block {
    return Block(first, stride, true);
}

fn left_element(block: Block, row: u32, k: u32) -> f32 {
    let major = select(row, k, block.by_columns);
    let minor = select(k, row, block.by_columns);
    return f32(a_part[block.first + major * block.stride + minor / 4u][minor % 4u]);
}

fn right_element(block: Block, k: u32, column: u32) -> f32 {
    let major = select(k, column, block.by_columns);
    let minor = select(column, k, block.by_columns);
    return f32(b_part[block.first + major * block.stride + minor / 4u][minor % 4u]);
}

fn multiply_add(left: Block, right: Block, sum: Sum) -> Sum {
    var slot = sum.slot;
    if slot == 0u {
        slots += 1u;
        slot = slots;
    }
    // One body for all: llvmpipe compiles it in each place where blocks are multiplied.
    for (var i = 0u; i < 1024u; i++) {
        let k = i / 64u;
        let row = i / 4u % 16u;
        let column = i % 4u * 4u;
        let four = vec4(right_element(right, k, column), right_element(right, k, column + 1u),
                        right_element(right, k, column + 2u), right_element(right, k, column + 3u));
        sums[slot * 64u + i % 64u] += left_element(left, row, k) * four;
    }
    return Sum(slot);
}

fn sum_to_part(sum: Sum, first: u32) {
    for (var i = 0u; i < 64u; i++) {
        sum_part[first + i / 4u * SUM_STRIDE + i % 4u] = sums[sum.slot * 64u + i];
    }
}
