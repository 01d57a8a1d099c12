// Both skinny products of a stack X: [matrices, rows, 4 packs] with its layers' bases, in one pass over X.
// Needs lib/grid.wgsl, lib/eight_rows.wgsl.

struct Params {
    matrices: u32,
    rows: u32,
    packs: u32,
    experts: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> u: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> vt: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> b: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> squares: array<f32>;

fn basis_row(at: Place, row: u32, inside: bool) -> Row {
    let i = (at.layer * params.rows + row) * 2u;
    return masked(Row(u[i], u[i + 1u]), inside);
}

fn store_row(at: Place, row: u32, inside: bool, sum: Row) {
    if inside {
        let i = (at.matrix * params.rows + row) * 2u;
        b[i] = sum.low;
        b[i + 1u] = sum.high;
    }
}

// parts: [matrices, blocks, 8, packs], U^T X of each block of rows (sum_blocks adds them up); b = X V: [matrices, rows, 8];
// squares: [matrices, blocks, 8], the squares of the rows of each lane.
@compute @workgroup_size(WG)
fn spectral_products(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() {
        return;
    }
    let at = place(index, lane);
    let basis = FourRows(basis_row(at, at.rows.x, at.inside.x), basis_row(at, at.rows.y, at.inside.y),
                         basis_row(at, at.rows.z, at.inside.z), basis_row(at, at.rows.w, at.inside.w));
    let first = (vec4(at.matrix * params.rows) + at.rows) * params.packs;
    let v = (at.layer * 8u + lane) * params.packs;
    let part = (at.block * 8u + lane) * params.packs;
    var sum0: Row;
    var sum1: Row;
    var sum2: Row;
    var sum3: Row;
    var square = vec4(0.0);
    for (var i = 0u; i < params.packs; i++) {
        var four = Four(x[first.x + i], x[first.y + i], x[first.z + i], x[first.w + i]);
        if ROW_TAIL {
            four.x0 = select(vec4(0.0), four.x0, at.inside.x);
            four.x1 = select(vec4(0.0), four.x1, at.inside.y);
            four.x2 = select(vec4(0.0), four.x2, at.inside.z);
            four.x3 = select(vec4(0.0), four.x3, at.inside.w);
        }
        let basis_v = spread(vt[v + i]);
        sum0 = reduce(sum0, four.x0, basis_v);
        sum1 = reduce(sum1, four.x1, basis_v);
        sum2 = reduce(sum2, four.x2, basis_v);
        sum3 = reduce(sum3, four.x3, basis_v);
        square = fma(four.x0, four.x0, fma(four.x1, four.x1, fma(four.x2, four.x2, fma(four.x3, four.x3, square))));
        parts[part + i] = project(basis, four, lane);
    }
    store_row(at, at.rows.x, at.inside.x, sum0);
    store_row(at, at.rows.y, at.inside.y, sum1);
    store_row(at, at.rows.z, at.inside.z, sum2);
    store_row(at, at.rows.w, at.inside.w, sum3);
    squares[at.block * 8u + lane] = (square.x + square.y) + (square.z + square.w);
}
