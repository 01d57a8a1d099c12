// One tile of a matrix product from workgroup memory, a block of C in the registers of each thread: the form for GPUs. The tile, the
// steps of k a round and, by the fragment it is joined with, the thread's block are a shape (src/kernels/shapes.rs).
//
// For a round the workgroup loads TILE_ROWS x STEPS of op(A) and STEPS x TILE_COLUMNS of op(B), in blocks of 4 x 4: a thread
// reads four vec4 as they are stored and keeps them in registers, with PREFETCH while the round before is multiplied. In
// workgroup memory both parts lie with the step of k outermost, in vec4, so that a thread reads four rows or columns at
// once. Where an operand is stored along k, its neighbouring threads read along k. The fours of a step are `exchanged` by
// the step's four: both such blocks and those along the other side are then written to different banks.
//
// provides: multiply
// needs: lib/gemm_tile.wgsl, gemm/blocks.wgsl, thread, store

override TILE_ROWS: u32 = 64u;
override TILE_COLUMNS: u32 = 64u;
override STEPS: u32 = 16u;
override PREFETCH: bool = true;
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

// The four of a step in which a part keeps the four `four`; `step` is its first of four.
fn exchanged(four: u32, step: u32) -> u32 {
    return four ^ (step / 4u % 4u * 2u);
}

// The first step and the four of a block of a part whose steps have `stride` fours, by whether it is stored along k.
fn place_of(block: u32, stride: u32, along_k: bool) -> vec2<u32> {
    return select(vec2(block / stride * 4u, block % stride), vec2(block % (STEPS / 4u) * 4u, block / (STEPS / 4u)), along_k);
}

fn fetch_a(tile: Tile, t: u32, block: u32) -> mat4x4<f32> {
    let place = place_of(block, A_STRIDE, !A_TRANSPOSED);
    return a_block(tile, tile.row + place.y * 4u, t + place.x);
}

fn fetch_b(tile: Tile, t: u32, block: u32) -> mat4x4<f32> {
    let place = place_of(block, B_STRIDE, B_TRANSPOSED);
    return b_block(tile, t + place.x, tile.column + place.y * 4u);
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
