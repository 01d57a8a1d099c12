// Four rows of the rank-2k product `left [right; vt]` that is the common part of a matrix. Needs lib/pack*.wgsl, `params`
// with the fields matrices, rows, packs (a row's), rank and experts, and the bindings
//   left:  [matrices, rows, 2 rank] = [U | (I - P_U) X V]
//   right: [matrices, rank, packs]  = U^T X
//   vt:    [layers, rank, packs]    = V^T, one for each `experts` matrices.

const ROWS: u32 = 4u;

// Where a thread works: a matrix, a block of ROWS rows of it, a pack of columns.
struct Place {
    matrix: u32,
    row: u32,
    column: u32,
    inside: bool,
}

fn place(thread: u32) -> Place {
    let blocks = (params.rows + ROWS - 1u) / ROWS;
    let block = thread / params.packs;
    let matrix = block / blocks;
    return Place(matrix, (block % blocks) * ROWS, thread % params.packs, matrix < params.matrices);
}

fn low_rank(at: Place) -> array<Pack, ROWS> {
    let k = params.rank;
    var a = at.matrix * k * params.packs + at.column;
    var v = at.matrix / params.experts * k * params.packs + at.column;
    // Rows past the end repeat the last one; their result is not used.
    let first = at.matrix * params.rows;
    var p0 = (first + at.row) * 2u * k;
    var p1 = (first + min(at.row + 1u, params.rows - 1u)) * 2u * k;
    var p2 = (first + min(at.row + 2u, params.rows - 1u)) * 2u * k;
    var p3 = (first + min(at.row + 3u, params.rows - 1u)) * 2u * k;
    var s0 = Pack(0.0);
    var s1 = Pack(0.0);
    var s2 = Pack(0.0);
    var s3 = Pack(0.0);
    for (var j = 0u; j < k; j++) {
        let x = right[a];
        let y = vt[v];
        s0 += left[p0] * x + left[p0 + k] * y;
        s1 += left[p1] * x + left[p1 + k] * y;
        s2 += left[p2] * x + left[p2 + k] * y;
        s3 += left[p3] * x + left[p3 + k] * y;
        a += params.packs;
        v += params.packs;
        p0 += 1u;
        p1 += 1u;
        p2 += 1u;
        p3 += 1u;
    }
    return array<Pack, ROWS>(s0, s1, s2, s3);
}
