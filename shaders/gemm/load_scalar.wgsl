// Operands of a product bound as scalars: for rows of any length.
//
// provides: load

@group(0) @binding(1) var<storage, read> a: array<RealA>;
@group(0) @binding(2) var<storage, read> b: array<RealB>;

fn a_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(vec4(a[index], a[index + 1u], a[index + 2u], a[index + 3u]));
}

fn b_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(vec4(b[index], b[index + 1u], b[index + 2u], b[index + 3u]));
}

fn b_element(index: u32) -> f32 {
    return f32(b[index]);
}
