// The small products around the gradient split at rank 8. Needs lib/grid.wgsl, lib/eight_rows.wgsl.

struct Params {
    matrices: u32,
    rows: u32,
    packs: u32,
    experts: u32,
    factor: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> vt: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> a: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> product: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> u: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> square: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> left: array<vec4<f32>>;

// Lane l adds up every eighth block from l on, of four columns.
fn some_blocks(first: u32, blocks: u32, pack: u32, lane: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var block = lane; block < blocks; block += 8u) {
        sum += parts[first + block * 8u * params.packs + min(pack, params.packs - 1u)];
    }
    return sum;
}

// A workgroup takes one of the eight rows of one matrix: a = the sum of parts: [matrices, blocks, 8, packs] over the blocks,
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
    let first = (matrix * blocks * 8u + index % 8u) * params.packs;
    let v = matrix / params.experts * 8u * params.packs;
    var inner: Row;
    for (var i = 0u; i < params.packs; i += 8u) {
        var sum = add_up(some_blocks(first, blocks, i, lane), some_blocks(first, blocks, i + 1u, lane),
                         some_blocks(first, blocks, i + 2u, lane), some_blocks(first, blocks, i + 3u, lane),
                         some_blocks(first, blocks, i + 4u, lane), some_blocks(first, blocks, i + 5u, lane),
                         some_blocks(first, blocks, i + 6u, lane), some_blocks(first, blocks, i + 7u, lane), lane);
        let own = i + lane;
        let inside = own < params.packs;
        let column = v + min(own, params.packs - 1u);
        if inside {
            a[index * params.packs + own] = sum;
        }
        sum = select(vec4(0.0), sum, inside);
        inner.low += vec4(dot(sum, vt[column]), dot(sum, vt[column + params.packs]),
                          dot(sum, vt[column + 2u * params.packs]), dot(sum, vt[column + 3u * params.packs]));
        inner.high += vec4(dot(sum, vt[column + 4u * params.packs]), dot(sum, vt[column + 5u * params.packs]),
                           dot(sum, vt[column + 6u * params.packs]), dot(sum, vt[column + 7u * params.packs]));
    }
    let low = subgroupAdd(inner.low);
    let high = subgroupAdd(inner.high);
    if lane == 0u {
        product[index * 2u] = low;
        product[index * 2u + 1u] = high;
    }
}

fn left_row(at: Place, row: u32, inside: bool, low: Eight, high: Eight) {
    let i = at.matrix * params.rows + row;
    let basis = (at.layer * params.rows + row) * 2u;
    let own = Row(u[basis], u[basis + 1u]);
    let x = Row(b[i * 2u], b[i * 2u + 1u]);
    if inside {
        left[i * 4u] = own.low;
        left[i * 4u + 1u] = own.high;
        left[i * 4u + 2u] = x.low - params.factor * expand(vec4(0.0), own, low);
        left[i * 4u + 3u] = x.high - params.factor * expand(vec4(0.0), own, high);
    }
}

// left: [matrices, rows, 16] = [U | b - factor U square], with u: [layers, rows, 8], b: [matrices, rows, 8] = X V and
// square: [matrices, 8, 8] = U^T X V. `packs` does not matter.
@compute @workgroup_size(WG)
fn left_factors(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() {
        return;
    }
    let at = place(index, lane);
    let inner = (at.matrix * 8u + lane) * 2u;
    let low = spread(square[inner]);
    let high = spread(square[inner + 1u]);
    left_row(at, at.near.at.x, at.near.inside.x, low, high);
    left_row(at, at.near.at.y, at.near.inside.y, low, high);
    left_row(at, at.near.at.z, at.near.inside.z, low, high);
    left_row(at, at.near.at.w, at.near.inside.w, low, high);
}
