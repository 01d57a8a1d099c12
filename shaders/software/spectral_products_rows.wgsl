// Both skinny products of a stack X: [matrices, rows, 8 octs] with its layers' bases, in one pass over X.
// ROWS is 32, WALKS any number.
//
// needs: lib/grid.wgsl, oct, software/eight_rows.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredOct>;
@group(0) @binding(2) var<storage, read> u: array<StoredOct>;
@group(0) @binding(3) var<storage, read> vt: array<StoredOct>;
@group(0) @binding(4) var<storage, read_write> parts: array<StoredOct>;
@group(0) @binding(5) var<storage, read_write> b: array<StoredOct>;
@group(0) @binding(6) var<storage, read_write> squares: array<f32>;
// [layers, rows, octs]: what the experts of a layer have in common.
@group(0) @binding(7) var<storage, read> common_matrix: array<StoredOct>;

// The products are those of X - common_matrix.
override BEYOND: bool = false;

fn basis_row(at: Place, row: u32, inside: bool) -> Oct {
    return masked(oct(u[at.layer * params.rows + row]), inside);
}

fn basis_rows(at: Place, rows: Rows) -> FourRows {
    return FourRows(basis_row(at, rows.at.x, rows.inside.x), basis_row(at, rows.at.y, rows.inside.y),
                    basis_row(at, rows.at.z, rows.inside.z), basis_row(at, rows.at.w, rows.inside.w));
}

fn load_row(i: u32, c: u32, inside: bool) -> Oct {
    let own = oct(x[i]);
    if BEYOND {
        let shared_row = oct(common_matrix[c]);
        return masked(Oct(own.low - shared_row.low, own.high - shared_row.high), inside);
    }
    return masked(own, inside);
}

// `shared_first` is the place in what the layer's experts share.
fn load(first: vec4<u32>, shared_first: vec4<u32>, i: u32, rows: Rows) -> FourRows {
    return FourRows(load_row(first.x + i, shared_first.x + i, rows.inside.x),
                    load_row(first.y + i, shared_first.y + i, rows.inside.y),
                    load_row(first.z + i, shared_first.z + i, rows.inside.z),
                    load_row(first.w + i, shared_first.w + i, rows.inside.w));
}

fn touch(first: u32) -> u32 {
    var bits = 0u;
    for (var i = 0u; i < PAGES; i++) {
        bits |= touched(x[page(first, i)]);
    }
    return bits;
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

// parts: [matrices, blocks, 8, octs], U^T X of each block of rows, a walk adding to what those before it gave (sum_blocks adds
// the blocks up); b = X V: [matrices, rows, 8];
// squares: [matrices, blocks, 8], the squares of the rows of each lane.
@compute @workgroup_size(WG)
fn spectral_products(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() {
        return;
    }
    let at = place(index, lane);
    let v_first = (at.layer * 8u + lane) * params.octs;
    let part = (at.block * 8u + lane) * params.octs;
    let end = min(at.first + ROWS * WALKS, params.rows);
    var square = vec4(0.0);
    for (var row = at.first; row < end; row += ROWS) {
        let rows = rows_from(row + lane);
        let basis = basis_rows(at, rows);
        let first = (vec4(at.matrix * params.rows) + rows.at) * params.octs;
        let shared_first = (vec4(at.layer * params.rows) + rows.at) * params.octs;
        var sums: FourRows;
        let begin = unused(touch(first.x) | touch(first.y) | touch(first.z) | touch(first.w));
        for (var i = begin; i < params.octs; i++) {
            let v = oct(vt[v_first + i]);
            let low = spread(v.low);
            let high = spread(v.high);
            let four = load(first, shared_first, i, rows);
            sums = reduce_four(sums, four, low, high);
            square = add_squares(add_squares(square, lows(four)), highs(four));
            let before = oct(parts[part + i]);
            let again = row > at.first;
            parts[part + i] = stored(Oct(
                add_inner(inner(basis, lows(four)), lane) + select(vec4(0.0), before.low, again),
                add_inner(inner(basis, highs(four)), lane) + select(vec4(0.0), before.high, again)));
        }
        store_rows(at, rows, sums);
    }
    squares[at.block * 8u + lane] = (square.x + square.y) + (square.z + square.w);
}
