// Operands of the subgroup product bound as vec4: where all rows of A, B and C have a multiple of 4 elements.

@group(0) @binding(1) var<storage, read> a: array<vec4<RealA>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<RealB>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<RealC>>;

fn a_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(a[index / 4u]);
}

fn b_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(b[index / 4u]);
}

// c = sum + beta c for four elements; never some of them here, so `skipped` is 0 or 4.
fn store_quad(index: u32, sum: vec4<f32>, skipped: u32, beta: f32) {
    if skipped == 0u {
        var result = sum;
        if beta != 0.0 {
            result += beta * vec4<f32>(c[index / 4u]);
        }
        c[index / 4u] = vec4<RealC>(result);
    }
}
