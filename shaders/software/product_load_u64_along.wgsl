// As software/product_load_u64.wgsl where B is stored transposed, along the steps, of which it comes in fours: A and B as pairs of u64.
//
// provides: load
// needs: software/pairs_u64.wgsl

@group(0) @binding(1) var<storage, read> a: array<vec2<u64>>;
@group(0) @binding(2) var<storage, read> b: array<vec2<u64>>;

fn a_quad(index: u32) -> vec4<f32> {
    return quad(a[index / 4u]);
}

fn b_quad(index: u32) -> vec4<f32> {
    return quad(b[index / 4u]);
}

// The first of four elements.
fn b_element(index: u32) -> f32 {
    return b_quad(index).x;
}
