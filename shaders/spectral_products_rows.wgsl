// Both skinny products of a stack X: [matrices, rows, 8 octs] with its layers' bases, in one pass over X.
// Needs lib/grid.wgsl, lib/oct_*.wgsl, lib/eight_rows.wgsl with ROWS = 32 or 64.

struct Params {
    matrices: u32,
    rows: u32,
    octs: u32,
    experts: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredOct>;
@group(0) @binding(2) var<storage, read> u: array<StoredOct>;
@group(0) @binding(3) var<storage, read> vt: array<StoredOct>;
@group(0) @binding(4) var<storage, read_write> parts: array<StoredOct>;
@group(0) @binding(5) var<storage, read_write> b: array<StoredOct>;
@group(0) @binding(6) var<storage, read_write> squares: array<f32>;

fn basis_row(at: Place, row: u32, inside: bool) -> Oct {
    return masked(oct(u[at.layer * params.rows + row]), inside);
}

fn basis_rows(at: Place, rows: Rows) -> FourRows {
    return FourRows(basis_row(at, rows.at.x, rows.inside.x), basis_row(at, rows.at.y, rows.inside.y),
                    basis_row(at, rows.at.z, rows.inside.z), basis_row(at, rows.at.w, rows.inside.w));
}

fn load(first: vec4<u32>, i: u32, rows: Rows) -> FourRows {
    return FourRows(masked(oct(x[first.x + i]), rows.inside.x), masked(oct(x[first.y + i]), rows.inside.y),
                    masked(oct(x[first.z + i]), rows.inside.z), masked(oct(x[first.w + i]), rows.inside.w));
}

fn add_squares(sum: vec4<f32>, x: Four) -> vec4<f32> {
    return fma(x.x0, x.x0, fma(x.x1, x.x1, fma(x.x2, x.x2, fma(x.x3, x.x3, sum))));
}

fn store_row(at: Place, row: u32, inside: bool, sum: Oct) {
    if inside {
        b[at.matrix * params.rows + row] = stored(sum);
    }
}

fn store_rows(at: Place, rows: Rows, sums: FourRows) {
    store_row(at, rows.at.x, rows.inside.x, sums.r0);
    store_row(at, rows.at.y, rows.inside.y, sums.r1);
    store_row(at, rows.at.z, rows.inside.z, sums.r2);
    store_row(at, rows.at.w, rows.inside.w, sums.r3);
}

// parts: [matrices, blocks, 8, octs], U^T X of each block of rows (sum_blocks adds them up); b = X V: [matrices, rows, 8];
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
    let first = (vec4(at.matrix * params.rows) + at.near.at) * params.octs;
    let far_first = (vec4(at.matrix * params.rows) + at.far.at) * params.octs;
    let v_first = (at.layer * 8u + lane) * params.octs;
    let part = (at.block * 8u + lane) * params.octs;
    var sums: FourRows;
    var far_sums: FourRows;
    var square = vec4(0.0);
    for (var i = 0u; i < params.octs; i++) {
        let x = load(first, i, at.near);
        let v = oct(vt[v_first + i]);
        let low = spread(v.low);
        let high = spread(v.high);
        sums = reduce_four(sums, x, low, high);
        square = add_squares(add_squares(square, lows(x)), highs(x));
        var inner_low = inner(Eight(), basis, lows(x));
        var inner_high = inner(Eight(), basis, highs(x));
        if ROWS == 64u {
            let far = load(far_first, i, at.far);
            far_sums = reduce_four(far_sums, far, low, high);
            square = add_squares(add_squares(square, lows(far)), highs(far));
            inner_low = inner(inner_low, far_basis, lows(far));
            inner_high = inner(inner_high, far_basis, highs(far));
        }
        parts[part + i] = stored(Oct(add_inner(inner_low, lane), add_inner(inner_high, lane)));
    }
    store_rows(at, at.near, sums);
    if ROWS == 64u {
        store_rows(at, at.far, far_sums);
    }
    squares[at.block * 8u + lane] = (square.x + square.y) + (square.z + square.w);
}
