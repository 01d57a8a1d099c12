// Operands of the subgroup product bound as scalars: for rows of any length.

@group(0) @binding(1) var<storage, read> a: array<RealA>;
@group(0) @binding(2) var<storage, read> b: array<RealB>;
@group(0) @binding(3) var<storage, read_write> c: array<RealC>;

fn a_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(vec4(a[index], a[index + 1u], a[index + 2u], a[index + 3u]));
}

fn b_quad(index: u32) -> vec4<f32> {
    return vec4<f32>(vec4(b[index], b[index + 1u], b[index + 2u], b[index + 3u]));
}

fn store_element(index: u32, sum: f32, beta: f32) {
    var result = sum;
    if beta != 0.0 {
        result += beta * f32(c[index]);
    }
    c[index] = RealC(result);
}

// c = sum + beta c for four elements but the first `skipped`.
fn store_quad(index: u32, sum: vec4<f32>, skipped: u32, beta: f32) {
    if skipped < 1u {
        store_element(index, sum.x, beta);
    }
    if skipped < 2u {
        store_element(index + 1u, sum.y, beta);
    }
    if skipped < 3u {
        store_element(index + 2u, sum.z, beta);
    }
    if skipped < 4u {
        store_element(index + 3u, sum.w, beta);
    }
}
