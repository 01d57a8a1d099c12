// The small products around the gradient split at rank 8; left_factors has ROWS = 32.
//
// needs: lib/grid.wgsl, oct, software/eight_rows.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<StoredOct>;
@group(0) @binding(2) var<storage, read> vt: array<StoredOct>;
@group(0) @binding(3) var<storage, read_write> a: array<StoredOct>;
@group(0) @binding(4) var<storage, read_write> product: array<StoredOct>;
@group(0) @binding(5) var<storage, read> u: array<StoredOct>;
@group(0) @binding(6) var<storage, read> b: array<StoredOct>;
@group(0) @binding(7) var<storage, read> square: array<StoredOct>;
@group(0) @binding(8) var<storage, read_write> left: array<StoredOct>;

// Lane l adds up every eighth block from l on, of eight columns.
fn some_blocks(first: u32, blocks: u32, i: u32, lane: u32) -> Oct {
    let column = first + min(i, params.octs - 1u);
    var sum: Oct;
    var block = lane;
    loop {
        let part = kept(oct(parts[column + min(block, blocks - 1u) * 8u * params.octs]), block < blocks);
        sum = Oct(sum.low + part.low, sum.high + part.high);
        block += 8u;
        // The same in all lanes, and after the body: a condition before it would have llvmpipe run the body once more.
        if block - lane >= blocks {
            break;
        }
    }
    return sum;
}

fn kept(x: Oct, inside: bool) -> Oct {
    return Oct(select(vec4(0.0), x.low, inside), select(vec4(0.0), x.high, inside));
}

// A workgroup takes one of the eight rows of one matrix: a = the sum of parts: [matrices, blocks, 8, octs] over the blocks,
// product = a V: [matrices, 8, 8].
@compute @workgroup_size(WG)
fn sum_blocks(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * 8u {
        return;
    }
    let matrix = index / 8u;
    let blocks = blocks_of_rows();
    let first = (matrix * blocks * 8u + index % 8u) * params.octs;
    let v = matrix / params.experts * 8u * params.octs;
    var inner: Oct;
    for (var i = 0u; i < params.octs; i += 8u) {
        let sum = add_up_octs(some_blocks(first, blocks, i, lane), some_blocks(first, blocks, i + 1u, lane),
                              some_blocks(first, blocks, i + 2u, lane), some_blocks(first, blocks, i + 3u, lane),
                              some_blocks(first, blocks, i + 4u, lane), some_blocks(first, blocks, i + 5u, lane),
                              some_blocks(first, blocks, i + 6u, lane), some_blocks(first, blocks, i + 7u, lane), lane);
        let own = i + lane;
        if own < params.octs {
            a[index * params.octs + own] = stored(sum);
        }
        let counted = kept(sum, own < params.octs);
        let column = v + min(own, params.octs - 1u);
        inner.low += vec4(inner_product(counted, column), inner_product(counted, column + params.octs),
                          inner_product(counted, column + 2u * params.octs),
                          inner_product(counted, column + 3u * params.octs));
        inner.high += vec4(inner_product(counted, column + 4u * params.octs),
                           inner_product(counted, column + 5u * params.octs),
                           inner_product(counted, column + 6u * params.octs),
                           inner_product(counted, column + 7u * params.octs));
    }
    let result = Oct(subgroupAdd(inner.low), subgroupAdd(inner.high));
    if lane == 0u {
        product[index] = stored(result);
    }
}

fn add_up_octs(p0: Oct, p1: Oct, p2: Oct, p3: Oct, p4: Oct, p5: Oct, p6: Oct, p7: Oct, lane: u32) -> Oct {
    return Oct(add_up(p0.low, p1.low, p2.low, p3.low, p4.low, p5.low, p6.low, p7.low, lane),
               add_up(p0.high, p1.high, p2.high, p3.high, p4.high, p5.high, p6.high, p7.high, lane));
}

fn inner_product(x: Oct, column: u32) -> f32 {
    let v = oct(vt[column]);
    return dot(x.low, v.low) + dot(x.high, v.high);
}

fn left_row(at: Place, row: u32, inside: bool, low: Eight, high: Eight) {
    let i = at.matrix * params.rows + row;
    let own = oct(u[at.layer * params.rows + row]);
    let x = oct(b[i]);
    if inside {
        left[i * 2u] = stored(own);
        left[i * 2u + 1u] = stored(Oct(x.low - params.factor * expand(own, low),
                                       x.high - params.factor * expand(own, high)));
    }
}

// left: [matrices, rows, 16] = [U | b - factor U square], with u: [layers, rows, 8], b: [matrices, rows, 8] = X V and
// square: [matrices, 8, 8] = U^T X V. `octs` does not matter.
@compute @workgroup_size(WG)
fn left_factors(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() {
        return;
    }
    let at = place(index, lane);
    let own = oct(square[at.matrix * 8u + lane]);
    let low = spread(own.low);
    let high = spread(own.high);
    left_row(at, at.near.at.x, at.near.inside.x, low, high);
    left_row(at, at.near.at.y, at.near.inside.y, low, high);
    left_row(at, at.near.at.z, at.near.inside.z, low, high);
    left_row(at, at.near.at.w, at.near.inside.w, low, high);
}
