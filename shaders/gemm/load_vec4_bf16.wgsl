// As gemm/load_vec4.wgsl where B is of bf16: weights that are kept as a checkpoint has them.
//
// provides: load
// needs: lib/bf16.wgsl

@group(0) @binding(1) var<storage, read> a: array<vec4<RealA>>;
@group(0) @binding(2) var<storage, read> b: array<FourBf16>;

fn a_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(a[index / 4u]);
}

fn b_quad(index: u32) -> vec4<f32> {
    return wide_bf16(b[index / 4u]);
}

// The first of four elements.
fn b_element(index: u32) -> f32 {
    return b_quad(index).x;
}
