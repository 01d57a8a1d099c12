// C of a product bound as scalars: for rows of any length.
//
// provides: store

@group(0) @binding(3) var<storage, read_write> c: array<RealC>;

// Whether beta may be other than 0. llvmpipe goes through a load whose lanes are all off, too.
override READ_C: bool = true;

fn store_element(index: u32, sum: f32, beta: f32) {
    var result = sum;
    if READ_C && beta != 0.0 {
        result += beta * f32(c[index]);
    }
    c[index] = RealC(result);
}

// c = sum + beta c for the elements from `skipped` to `columns` of four. Where beta is 0, C may hold anything, NaN
// included.
fn store_quad(index: u32, sum: vec4<f32>, skipped: u32, columns: u32, beta: f32) {
    if skipped < 1u && columns > 0u {
        store_element(index, sum.x, beta);
    }
    if skipped < 2u && columns > 1u {
        store_element(index + 1u, sum.y, beta);
    }
    if skipped < 3u && columns > 2u {
        store_element(index + 2u, sum.z, beta);
    }
    if skipped < 4u && columns > 3u {
        store_element(index + 3u, sum.w, beta);
    }
}
