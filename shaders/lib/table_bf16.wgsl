// Fours of a table of bf16.
//
// provides: table
// needs: lib/bf16.wgsl

@group(0) @binding(2) var<storage, read> table: array<FourBf16>;

fn table_four(index: u32) -> vec4<f32> {
    return wide_bf16(table[index]);
}
