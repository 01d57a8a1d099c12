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

fn basis_rows(at: Place, rows: Rows) -> FourRows {
    return FourRows(basis_row(at, rows.at.x, rows.inside.x), basis_row(at, rows.at.y, rows.inside.y),
                    basis_row(at, rows.at.z, rows.inside.z), basis_row(at, rows.at.w, rows.inside.w));
}

fn load(first: vec4<u32>, i: u32, rows: Rows) -> Four {
    var four = Four(x[first.x + i], x[first.y + i], x[first.z + i], x[first.w + i]);
    if ROW_TAIL {
        four.x0 = select(vec4(0.0), four.x0, rows.inside.x);
        four.x1 = select(vec4(0.0), four.x1, rows.inside.y);
        four.x2 = select(vec4(0.0), four.x2, rows.inside.z);
        four.x3 = select(vec4(0.0), four.x3, rows.inside.w);
    }
    return four;
}

fn add_squares(sum: vec4<f32>, x: Four) -> vec4<f32> {
    return fma(x.x0, x.x0, fma(x.x1, x.x1, fma(x.x2, x.x2, fma(x.x3, x.x3, sum))));
}

fn store_row(at: Place, row: u32, inside: bool, sum: Row) {
    if inside {
        let i = (at.matrix * params.rows + row) * 2u;
        b[i] = sum.low;
        b[i + 1u] = sum.high;
    }
}

fn store_rows(at: Place, rows: Rows, sums: FourRows) {
    store_row(at, rows.at.x, rows.inside.x, sums.r0);
    store_row(at, rows.at.y, rows.inside.y, sums.r1);
    store_row(at, rows.at.z, rows.inside.z, sums.r2);
    store_row(at, rows.at.w, rows.inside.w, sums.r3);
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
    let basis = basis_rows(at, at.near);
    let far_basis = basis_rows(at, at.far);
    let first = (vec4(at.matrix * params.rows) + at.near.at) * params.packs;
    let far_first = (vec4(at.matrix * params.rows) + at.far.at) * params.packs;
    let v = (at.layer * 8u + lane) * params.packs;
    let part = (at.block * 8u + lane) * params.packs;
    var sums: FourRows;
    var far_sums: FourRows;
    var square = vec4(0.0);
    for (var i = 0u; i < params.packs; i++) {
        let four = load(first, i, at.near);
        let basis_v = spread(vt[v + i]);
        sums = reduce_four(sums, four, basis_v);
        square = add_squares(square, four);
        var inside = inner(Eight(), basis, four);
        if FAR {
            let far = load(far_first, i, at.far);
            far_sums = reduce_four(far_sums, far, basis_v);
            square = add_squares(square, far);
            inside = inner(inside, far_basis, far);
        }
        parts[part + i] = add_inner(inside, lane);
    }
    store_rows(at, at.near, sums);
    if FAR {
        store_rows(at, at.far, far_sums);
    }
    squares[at.block * 8u + lane] = (square.x + square.y) + (square.z + square.w);
}
