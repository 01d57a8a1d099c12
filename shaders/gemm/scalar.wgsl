// Operands of the subgroup product bound as scalars: for rows of any length.

@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

// Four elements of a row that starts at `row`, from `column` on; past `columns` anything finite in the matrix.
fn a_quad(row: u32, column: u32, columns: u32) -> vec4<f32> {
    let last = columns - 1u;
    return vec4(a[row + min(column, last)], a[row + min(column + 1u, last)], a[row + min(column + 2u, last)],
                a[row + min(column + 3u, last)]);
}

fn b_quad(row: u32, column: u32, columns: u32) -> vec4<f32> {
    let last = columns - 1u;
    return vec4(b[row + min(column, last)], b[row + min(column + 1u, last)], b[row + min(column + 2u, last)],
                b[row + min(column + 3u, last)]);
}

fn store_element(index: u32, sum: f32, beta: f32) {
    if beta != 0.0 {
        c[index] = sum + beta * c[index];
    } else {
        c[index] = sum;
    }
}

// c = sum + beta c for four elements of a row, as far as they lie within `columns`.
fn store_quad(row: u32, column: u32, columns: u32, sum: vec4<f32>, beta: f32) {
    if column < columns {
        store_element(row + column, sum.x, beta);
    }
    if column + 1u < columns {
        store_element(row + column + 1u, sum.y, beta);
    }
    if column + 2u < columns {
        store_element(row + column + 2u, sum.z, beta);
    }
    if column + 3u < columns {
        store_element(row + column + 3u, sum.w, beta);
    }
}
