// The sums of a thread of gemm/workgroup.wgsl: 8 x 4 elements of C, in vec4 of columns. Their names: row, four of columns.
// Eights are two fours, half a tile apart, so that neighbouring threads read neighbouring fours.
//
// provides: thread

const THREAD_ROWS: u32 = 8u;
const THREAD_COLUMNS: u32 = 4u;

struct Sums {
    r0c0: vec4<f32>,
    r1c0: vec4<f32>,
    r2c0: vec4<f32>,
    r3c0: vec4<f32>,
    r4c0: vec4<f32>,
    r5c0: vec4<f32>,
    r6c0: vec4<f32>,
    r7c0: vec4<f32>,
}

// One step of k: `i` and `j` are the thread's first fours of the step in both parts.
fn add_step(sums: ptr<function, Sums>, i: u32, j: u32) {
    let a0 = a_part[i];
    let a1 = a_part[i + TILE_ROWS / 8u];
    let b0 = b_part[j];
    (*sums).r0c0 = fma(vec4(a0.x), b0, (*sums).r0c0);
    (*sums).r1c0 = fma(vec4(a0.y), b0, (*sums).r1c0);
    (*sums).r2c0 = fma(vec4(a0.z), b0, (*sums).r2c0);
    (*sums).r3c0 = fma(vec4(a0.w), b0, (*sums).r3c0);
    (*sums).r4c0 = fma(vec4(a1.x), b0, (*sums).r4c0);
    (*sums).r5c0 = fma(vec4(a1.y), b0, (*sums).r5c0);
    (*sums).r6c0 = fma(vec4(a1.z), b0, (*sums).r6c0);
    (*sums).r7c0 = fma(vec4(a1.w), b0, (*sums).r7c0);
}

// `row` and `column` are those of the first sum in C.
fn store_sums(sums: ptr<function, Sums>, tile: Tile, row: u32, column: u32) {
    store_four(tile, row, column, (*sums).r0c0);
    store_four(tile, row + 1u, column, (*sums).r1c0);
    store_four(tile, row + 2u, column, (*sums).r2c0);
    store_four(tile, row + 3u, column, (*sums).r3c0);
    store_four(tile, row + TILE_ROWS / 2u, column, (*sums).r4c0);
    store_four(tile, row + 1u + TILE_ROWS / 2u, column, (*sums).r5c0);
    store_four(tile, row + 2u + TILE_ROWS / 2u, column, (*sums).r6c0);
    store_four(tile, row + 3u + TILE_ROWS / 2u, column, (*sums).r7c0);
}
