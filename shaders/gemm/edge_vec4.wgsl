// Fours of A and B at the edges of the matrices, where all rows have a multiple of 4 elements: whole or none. `count` is how many
// elements of the row there are from `index` on.
//
// provides: edge
// needs: load

fn a_edge(index: u32, count: u32) -> vec4<f32> {
    if count == 0u {
        return vec4(0.0);
    }
    return a_quad(index);
}

fn b_edge(index: u32, count: u32) -> vec4<f32> {
    if count == 0u {
        return vec4(0.0);
    }
    return b_quad(index);
}
