// C of a product bound as vec4: where all its rows have a multiple of 4 elements.
//
// provides: store

@group(0) @binding(3) var<storage, read_write> c: array<vec4<RealC>>;

// c = sum + beta c for four elements: all or, where `skipped` is not 0 or `columns` is 0, none of them. Where beta is 0,
// C may hold anything, NaN included.
fn store_quad(index: u32, sum: vec4<f32>, skipped: u32, columns: u32, beta: f32) {
    if skipped == 0u && columns > 0u {
        var result = sum;
        if beta != 0.0 {
            result += beta * vec4<f32>(c[index / 4u]);
        }
        c[index / 4u] = vec4<RealC>(result);
    }
}
