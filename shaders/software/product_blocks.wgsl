// The blocks of op(B) of a lane of software/product.wgsl: one beside those of its neighbours, the second as far on as a subgroup has
// columns.
//
// provides: product_blocks
// needs: load

fn block_columns(tile: Tile, lane: u32) -> vec2<u32> {
    let column = tile.column + lane * 4u;
    return vec2(column, column + 4u * WG);
}

// op(B)[t .. t + 4][column .. column + 4], a column of the matrix for each step.
fn load_b(tile: Tile, t: u32, column: u32) -> mat4x4<f32> {
    if B_TRANSPOSED {
        let i = tile.b_first + column * tile.b_stride + t;
        return transpose(mat4x4(b_quad(i), b_quad(i + tile.b_stride), b_quad(i + 2u * tile.b_stride),
                                b_quad(i + 3u * tile.b_stride)));
    }
    let i = tile.b_first + t * tile.b_stride + column;
    return mat4x4(b_quad(i), b_quad(i + tile.b_stride), b_quad(i + 2u * tile.b_stride), b_quad(i + 3u * tile.b_stride));
}

// From where on they are loaded.
fn loaded_columns(tile: Tile, columns: vec2<u32>) -> vec2<u32> {
    return vec2(moved(columns.x, tile.n), moved(columns.y, tile.n));
}

fn load_blocks(tile: Tile, t: u32, columns: vec2<u32>) -> Blocks {
    var blocks: Blocks;
    blocks.first = load_b(tile, t, columns.x);
    if COLUMN_BLOCKS > 1u {
        blocks.second = load_b(tile, t, columns.y);
    }
    return blocks;
}
