// Where in a table an output's element comes from, by its position's token. The table's rows first .. + rows are bound.

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> token: array<u32>;

const ELSEWHERE: u32 = 0xffffffffu;

// The pack of the bound rows for the output's pack `i`; ELSEWHERE where the token is in none of them.
fn place_in_table(i: u32) -> u32 {
    let of_table = token[i / params.width];
    let row = of_table - params.first;
    if of_table >= params.first && row < params.rows {
        return row * params.width + i % params.width;
    }
    return ELSEWHERE;
}
