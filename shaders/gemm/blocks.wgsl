// How a multiplying fragment loads the operands of a product, in blocks of 4 x 4, and stores fours of C. A block has a vec4 of rows of
// op(A), or of columns of op(B), for each of four steps of k; zeros outside. Where an operand is stored along k, that is a
// transposition, of names of registers.
//
// needs: lib/gemm_tile.wgsl, load, edge, store

override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;

// Elements from `first` up to `end`, none where that is past.
fn left(first: u32, end: u32) -> u32 {
    return end - min(first, end);
}

// Elements of the row `index` of a matrix of `rows` rows.
fn within(count: u32, index: u32, rows: u32) -> u32 {
    return select(0u, count, index < rows);
}

// op(A)[row .. row + 4][step .. step + 4], a column for each step.
fn a_block(tile: Tile, row: u32, step: u32) -> mat4x4<f32> {
    if A_TRANSPOSED {
        let i = tile.a_first + step * tile.a_stride + row;
        let count = left(row, tile.m);
        return mat4x4(a_edge(i, within(count, step, tile.k)),
                      a_edge(i + tile.a_stride, within(count, step + 1u, tile.k)),
                      a_edge(i + 2u * tile.a_stride, within(count, step + 2u, tile.k)),
                      a_edge(i + 3u * tile.a_stride, within(count, step + 3u, tile.k)));
    }
    let i = tile.a_first + row * tile.a_stride + step;
    let count = left(step, tile.k);
    return transpose(mat4x4(a_edge(i, within(count, row, tile.m)),
                            a_edge(i + tile.a_stride, within(count, row + 1u, tile.m)),
                            a_edge(i + 2u * tile.a_stride, within(count, row + 2u, tile.m)),
                            a_edge(i + 3u * tile.a_stride, within(count, row + 3u, tile.m))));
}

// op(B)[step .. step + 4][column .. column + 4], a column of the matrix for each step.
fn b_block(tile: Tile, step: u32, column: u32) -> mat4x4<f32> {
    if B_TRANSPOSED {
        let i = tile.b_first + column * tile.b_stride + step;
        let count = left(step, tile.k);
        return transpose(mat4x4(b_edge(i, within(count, column, tile.n)),
                                b_edge(i + tile.b_stride, within(count, column + 1u, tile.n)),
                                b_edge(i + 2u * tile.b_stride, within(count, column + 2u, tile.n)),
                                b_edge(i + 3u * tile.b_stride, within(count, column + 3u, tile.n))));
    }
    let i = tile.b_first + step * tile.b_stride + column;
    let count = left(column, tile.n);
    return mat4x4(b_edge(i, within(count, step, tile.k)),
                  b_edge(i + tile.b_stride, within(count, step + 1u, tile.k)),
                  b_edge(i + 2u * tile.b_stride, within(count, step + 2u, tile.k)),
                  b_edge(i + 3u * tile.b_stride, within(count, step + 3u, tile.k)));
}

fn store_four(tile: Tile, row: u32, column: u32, sum: vec4<f32>) {
    let count = within(left(column, tile.n), row, tile.m);
    store_quad(tile.c_first + row * tile.c_stride + column, tile.alpha * sum, 0u, count, tile.beta);
}
