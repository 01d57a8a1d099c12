// One tile of a matrix product from workgroup memory, a block of C in the registers of each thread: the form for GPUs. The tile, the
// steps of k a round and, by the fragment it is joined with, the thread's block are a shape (src/kernels/shapes.rs).
//
// For a round the workgroup loads TILE_ROWS x STEPS of op(A) and STEPS x TILE_COLUMNS of op(B), in blocks of 4 x 4: a thread
// reads four vec4 as they are stored and keeps them in registers, with PREFETCH while the round before is multiplied. In
// workgroup memory both parts lie with the step of k outermost, in vec4, so that a thread reads four rows or columns at
// once. Where an operand is stored along k, that is a transposition, of names of registers; its neighbouring threads read
// along k. The fours of a step are exchanged by the step's four (`turn`): both such blocks and those along the other side
// are then written to different banks.
//
// provides: multiply
// needs: lib/gemm_tile.wgsl, thread, load, edge, store

override TILE_ROWS: u32 = 64u;
override TILE_COLUMNS: u32 = 64u;
override STEPS: u32 = 16u;
override PREFETCH: bool = true;
override A_TRANSPOSED: bool = false;
override B_TRANSPOSED: bool = false;
override WG: u32 = TILE_ROWS / THREAD_ROWS * (TILE_COLUMNS / THREAD_COLUMNS);

// Fours between two steps of the parts.
override A_STRIDE: u32 = TILE_ROWS / 4u;
override B_STRIDE: u32 = TILE_COLUMNS / 4u;
override A_BLOCKS: u32 = A_STRIDE * (STEPS / 4u);
override A_FOURS: u32 = STEPS * A_STRIDE;
override B_FOURS: u32 = STEPS * B_STRIDE;
override BLOCKS: u32 = (A_STRIDE + B_STRIDE) * (STEPS / 4u);

var<workgroup> a_part: array<vec4<f32>, A_FOURS>;
var<workgroup> b_part: array<vec4<f32>, B_FOURS>;

// Elements from `first` up to `end`, none where that is past.
fn left(first: u32, end: u32) -> u32 {
    return end - min(first, end);
}

// Elements of the row `index` of a matrix of `rows` rows.
fn within(count: u32, index: u32, rows: u32) -> u32 {
    return select(0u, count, index < rows);
}

// The four of a step in which a part keeps the four `four`; `step` is its first of four.
fn exchanged(four: u32, step: u32) -> u32 {
    return four ^ (step / 4u % 4u * 2u);
}

// The first step and the four of a block of a part whose steps have `stride` fours, by whether it is stored along k.
fn place_of(block: u32, stride: u32, along_k: bool) -> vec2<u32> {
    return select(vec2(block / stride * 4u, block % stride), vec2(block % (STEPS / 4u) * 4u, block / (STEPS / 4u)), along_k);
}

// op(A)[four rows][four steps], a column for each step; zeros outside.
fn fetch_a(tile: Tile, t: u32, block: u32) -> mat4x4<f32> {
    let place = place_of(block, A_STRIDE, !A_TRANSPOSED);
    let step = t + place.x;
    let row = tile.row + place.y * 4u;
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

// op(B)[four steps][four columns], a column of the matrix for each step; zeros outside.
fn fetch_b(tile: Tile, t: u32, block: u32) -> mat4x4<f32> {
    let place = place_of(block, B_STRIDE, B_TRANSPOSED);
    let step = t + place.x;
    let column = tile.column + place.y * 4u;
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

// Blocks are numbered through A and then B.
fn fetch(tile: Tile, t: u32, block: u32) -> mat4x4<f32> {
    if block < A_BLOCKS {
        return fetch_a(tile, t, block);
    }
    if block < BLOCKS {
        return fetch_b(tile, t, block - A_BLOCKS);
    }
    return mat4x4<f32>();
}

fn put(block: u32, steps: mat4x4<f32>) {
    if block < A_BLOCKS {
        let place = place_of(block, A_STRIDE, !A_TRANSPOSED);
        let i = place.x * A_STRIDE + exchanged(place.y, place.x);
        a_part[i] = steps[0];
        a_part[i + A_STRIDE] = steps[1];
        a_part[i + 2u * A_STRIDE] = steps[2];
        a_part[i + 3u * A_STRIDE] = steps[3];
    } else if block < BLOCKS {
        let place = place_of(block - A_BLOCKS, B_STRIDE, B_TRANSPOSED);
        let i = place.x * B_STRIDE + exchanged(place.y, place.x);
        b_part[i] = steps[0];
        b_part[i + B_STRIDE] = steps[1];
        b_part[i + 2u * B_STRIDE] = steps[2];
        b_part[i + 3u * B_STRIDE] = steps[3];
    }
}

fn store_four(tile: Tile, row: u32, column: u32, sum: vec4<f32>) {
    let count = within(left(column, tile.n), row, tile.m);
    store_quad(tile.c_first + row * tile.c_stride + column, tile.alpha * sum, 0u, count, tile.beta);
}

fn multiply(tile: Tile, lane: u32) {
    let row_four = lane / (TILE_COLUMNS / THREAD_COLUMNS);
    let column_four = lane % (TILE_COLUMNS / THREAD_COLUMNS);
    var sums = Sums();
    var first = mat4x4<f32>();
    var second = mat4x4<f32>();
    if PREFETCH {
        first = fetch(tile, 0u, lane);
        if BLOCKS > WG {
            second = fetch(tile, 0u, lane + WG);
        }
    }
    for (var t = 0u; t < tile.k; t += STEPS) {
        if !PREFETCH {
            first = fetch(tile, t, lane);
            if BLOCKS > WG {
                second = fetch(tile, t, lane + WG);
            }
        }
        // All are done with the round before.
        workgroupBarrier();
        put(lane, first);
        if BLOCKS > WG {
            put(lane + WG, second);
        }
        workgroupBarrier();
        if PREFETCH && t + STEPS < tile.k {
            first = fetch(tile, t + STEPS, lane);
            if BLOCKS > WG {
                second = fetch(tile, t + STEPS, lane + WG);
            }
        }
        for (var step = 0u; step < STEPS; step += 4u) {
            let i = step * A_STRIDE + exchanged(row_four, step);
            let j = step * B_STRIDE + exchanged(column_four, step);
            add_step(&sums, i, j);
            add_step(&sums, i + A_STRIDE, j + B_STRIDE);
            add_step(&sums, i + 2u * A_STRIDE, j + 2u * B_STRIDE);
            add_step(&sums, i + 3u * A_STRIDE, j + 3u * B_STRIDE);
        }
    }
    store_sums(&sums, tile, tile.row + row_four * 4u, tile.column + column_four * 4u);
}
