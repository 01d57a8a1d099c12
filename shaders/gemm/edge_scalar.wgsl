// Fours of A and B at the edges of the matrices, for rows of any length: zeros beyond them. `count` is how many elements of the row
// there are from `index` on.
//
// provides: edge
// needs: gemm/load_scalar.wgsl

fn a_edge(index: u32, count: u32) -> vec4<f32> {
    var four = vec4(0.0);
    if count > 0u {
        four.x = f32(a[index]);
    }
    if count > 1u {
        four.y = f32(a[index + 1u]);
    }
    if count > 2u {
        four.z = f32(a[index + 2u]);
    }
    if count > 3u {
        four.w = f32(a[index + 3u]);
    }
    return four;
}

fn b_edge(index: u32, count: u32) -> vec4<f32> {
    var four = vec4(0.0);
    if count > 0u {
        four.x = f32(b[index]);
    }
    if count > 1u {
        four.y = f32(b[index + 1u]);
    }
    if count > 2u {
        four.z = f32(b[index + 2u]);
    }
    if count > 3u {
        four.w = f32(b[index + 3u]);
    }
    return four;
}
