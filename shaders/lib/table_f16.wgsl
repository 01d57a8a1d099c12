// Fours of a table of f16.
//
// provides: table

@group(0) @binding(2) var<storage, read> table: array<vec4<RealTable>>;

fn table_four(index: u32) -> vec4<f32> {
    return vec4<f32>(table[index]);
}
