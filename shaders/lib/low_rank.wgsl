// ROWS rows of the rank-2k product `left [right; vt]` that is the common part of a matrix. `params` has the
// fields matrices, rows, packs (a row's) and experts; the bindings are
//   left:  [matrices, rows, 2 RANK] = [U | (I - P_U) X V]
//   right: [matrices, RANK, packs]  = U^T X
//   vt:    [layers, RANK, packs]    = V^T, one for each `experts` matrices.
//
// A workgroup works on one block of rows, its threads on neighbouring columns: the values of `left` are the same for all
// threads. Software adapters load such a value once if they can see it: its address must come from the workgroup's number
// alone, outside of any branch and any loop that is not unrolled. Hence the constant rank, and indices clamped instead of
// guarded: what is past the end repeats the last row or column, and is not stored.
//
// needs: lanes

// Threads, the rank k, whether the common part takes part (1 or 0) and whether X itself does.
override WG: u32 = 64;
override RANK: u32 = 8;
override COMMON: u32 = 1;
override FULL: u32 = 1;

const ROWS: u32 = 8u;

// Where a thread works. Clamped to the stack; `inside` says whether it was inside, rows apart.
struct Place {
    matrix: u32,
    row: u32,
    column: u32,
    inside: bool,
}

fn place(workgroup: u32, lane: u32) -> Place {
    let blocks = (params.rows + ROWS - 1u) / ROWS;
    let parts = (params.packs + WG - 1u) / WG;
    let column = workgroup % parts * WG + lane;
    let block = workgroup / parts;
    let matrix = min(block / blocks, params.matrices - 1u);
    let inside = block / blocks == matrix && column < params.packs;
    return Place(matrix, block % blocks * ROWS, min(column, params.packs - 1u), inside);
}

// Named sums, not an array: what is indexed at run time leaves the registers.
struct Sums {
    s0: Pack,
    s1: Pack,
    s2: Pack,
    s3: Pack,
    s4: Pack,
    s5: Pack,
    s6: Pack,
    s7: Pack,
}

// Where row `row` of the matrix lies in `left`; past the end the last row.
fn left_row(at: Place, r: u32) -> u32 {
    return (at.matrix * params.rows + min(at.row + r, params.rows - 1u)) * 2u * RANK;
}

fn low_rank(at: Place) -> Sums {
    var sums = Sums();
    if COMMON != 0u {
        let a = at.matrix * RANK * params.packs + at.column;
        let v = at.matrix / params.experts * RANK * params.packs + at.column;
        let p0 = left_row(at, 0u);
        let p1 = left_row(at, 1u);
        let p2 = left_row(at, 2u);
        let p3 = left_row(at, 3u);
        let p4 = left_row(at, 4u);
        let p5 = left_row(at, 5u);
        let p6 = left_row(at, 6u);
        let p7 = left_row(at, 7u);
        for (var j = 0u; j < RANK; j++) {
            let x = right[a + j * params.packs];
            let y = vt[v + j * params.packs];
            sums.s0 += left[p0 + j] * x + left[p0 + RANK + j] * y;
            sums.s1 += left[p1 + j] * x + left[p1 + RANK + j] * y;
            sums.s2 += left[p2 + j] * x + left[p2 + RANK + j] * y;
            sums.s3 += left[p3 + j] * x + left[p3 + RANK + j] * y;
            sums.s4 += left[p4 + j] * x + left[p4 + RANK + j] * y;
            sums.s5 += left[p5 + j] * x + left[p5 + RANK + j] * y;
            sums.s6 += left[p6 + j] * x + left[p6 + RANK + j] * y;
            sums.s7 += left[p7 + j] * x + left[p7 + RANK + j] * y;
        }
    }
    return sums;
}
