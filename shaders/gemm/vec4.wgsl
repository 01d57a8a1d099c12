// Operands of the subgroup product bound as vec4: where the rows of A, B and C all have a multiple of 4 elements.
// Four elements are inside or outside a matrix together, so a clamp of the first suffices.

@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4<f32>>;

// Four elements of a row that starts at `row`, from `column` on; past `columns` anything finite in the matrix.
fn a_quad(row: u32, column: u32, columns: u32) -> vec4<f32> {
    return a[(row + min(column, columns - 4u)) / 4u];
}

fn b_quad(row: u32, column: u32, columns: u32) -> vec4<f32> {
    return b[(row + min(column, columns - 4u)) / 4u];
}

// c = sum + beta c for four elements of a row, as far as they lie within `columns`.
fn store_quad(row: u32, column: u32, columns: u32, sum: vec4<f32>, beta: f32) {
    if column < columns {
        let index = (row + column) / 4u;
        if beta != 0.0 {
            c[index] = sum + beta * c[index];
        } else {
            c[index] = sum;
        }
    }
}
