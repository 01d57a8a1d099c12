// What the entry points of grouped products share: the expert that a row belongs to, and the tile of its product.
//
// `a` is X, `b` is W, `c` is Y. A launch has the experts expert_first .. + experts in W.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> tile_expert: array<u32>;

// The expert of `row`, counted from the launch's first. Experts before that wrap to large numbers, and so does the mark of a tile without
// expert: one that is not below params.experts is none of this launch.
fn expert_of(row: u32) -> u32 {
    return tile_expert[params.tile_first + row / params.tile_rows] - params.expert_first;
}

// The tile at `row` and `column` of Y, of the launch's expert `expert`.
fn grouped_tile(row: u32, column: u32, expert: u32) -> Tile {
    var tile = tile_of(params.rows, params.n, params.k);
    tile.row = row;
    tile.column = column;
    tile.a_first = params.a_first;
    tile.b_first = params.b_first + expert * params.b_matrix;
    tile.c_first = params.c_first;
    tile.a_stride = params.a_stride;
    tile.b_stride = params.b_stride;
    tile.c_stride = params.c_stride;
    tile.alpha = 1.0;
    tile.beta = params.beta;
    return tile;
}
