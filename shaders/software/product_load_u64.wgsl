// Operands of the subgroup product bound as u64 of two f32 each, and a lane's two blocks of op(B), side by side: for B as it is
// stored, its rows, and their parts that a tile has, of a multiple of 8 elements, those of A of a multiple of 4, and
// COLUMN_BLOCKS = 2. A load costs llvmpipe by its number of components, so these cost half as much and a little more.
//
// provides: product_blocks
// needs: software/pairs_u64.wgsl, software/oct_u64.wgsl

@group(0) @binding(1) var<storage, read> a: array<vec2<u64>>;
@group(0) @binding(2) var<storage, read> b: array<StoredOct>;

fn a_quad(index: u32) -> vec4<f32> {
    return quad(a[index / 4u]);
}

fn b_oct(index: u32) -> Oct {
    return oct(b[index / 8u]);
}

// The first of eight elements.
fn b_element(index: u32) -> f32 {
    return b_oct(index).low.x;
}

fn block_columns(tile: Tile, lane: u32) -> vec2<u32> {
    let column = tile.column + lane * 8u;
    return vec2(column, column + 4u);
}

// From where on they are loaded.
fn loaded_columns(tile: Tile, columns: vec2<u32>) -> vec2<u32> {
    let column = min(columns.x, tile.n - 8u);
    return vec2(column, column + 4u);
}

fn load_blocks(tile: Tile, t: u32, columns: vec2<u32>) -> Blocks {
    let i = tile.b_first + t * tile.b_stride + columns.x;
    let step0 = b_oct(i);
    let step1 = b_oct(i + tile.b_stride);
    let step2 = b_oct(i + 2u * tile.b_stride);
    let step3 = b_oct(i + 3u * tile.b_stride);
    return Blocks(mat4x4(step0.low, step1.low, step2.low, step3.low),
                  mat4x4(step0.high, step1.high, step2.high, step3.high));
}
