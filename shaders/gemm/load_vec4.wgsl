// Operands of a product bound as vec4: where all rows of A and B have a multiple of 4 elements.
//
// provides: load

@group(0) @binding(1) var<storage, read> a: array<vec4<RealA>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<RealB>>;

fn a_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(a[index / 4u]);
}

fn b_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(b[index / 4u]);
}

// The first of four elements.
fn b_element(index: u32) -> f32 {
    return f32(b[index / 4u].x);
}
