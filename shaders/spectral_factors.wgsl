// The small products around the gradient split: sums over experts, rank-2k factors, transposed bases, the initial common
// matrix. One output a thread.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> square: array<f32>;
@group(0) @binding(5) var<storage, read> full: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

// y: [matrices, rows, 2 rank] = [U | x - factor U square], with U: [layers, rows, rank], x: [matrices, rows, rank] = X V and
// square: [matrices, rank, rank] = U^T X V.
@compute @workgroup_size(WG)
fn left_factors(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let k = params.rank;
    let row = i / k;
    let j = i % k;
    let matrix = row / params.rows;
    let basis = (matrix / params.experts * params.rows + row % params.rows) * k;
    var value = x[i];
    if params.factor != 0.0 {
        var inside = 0.0;
        for (var t = 0u; t < k; t++) {
            inside += u[basis + t] * square[(matrix * k + t) * k + j];
        }
        value -= params.factor * inside;
    }
    y[row * 2u * k + j] = u[basis + j];
    y[row * 2u * k + k + j] = value;
}

// y: [layers, columns] = factor * sum over experts of x: [layers, experts, columns], in the experts' order.
@compute @workgroup_size(WG)
fn sum_experts(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let first = i / params.columns * params.experts * params.columns + i % params.columns;
    var sum = 0.0;
    for (var e = 0u; e < params.experts; e++) {
        sum += x[first + e * params.columns];
    }
    y[i] = params.factor * sum;
}

// y: [layers, rank, columns] = V^T, V: [layers, columns, rank].
@compute @workgroup_size(WG)
fn transpose_basis(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let column = i % params.columns;
    let row = i / params.columns;
    y[i] = v[(row / params.rank * params.columns + column) * params.rank + row % params.rank];
}

// The grading of the initial singular values: from 1.25 down to 0.75.
fn grade(j: u32) -> f32 {
    if params.rank == 1u {
        return 1.0;
    }
    return 1.25 - 0.5 * f32(j) / f32(params.rank - 1u);
}

// y: [layers, rows, columns] = c U diag(grade) V^T with c such that |y|^2 is the experts' mean of `full - square`, the
// squared norms before and after a projection, which all layers have in one tensor.
@compute @workgroup_size(WG)
fn initial_common(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let layer = i / (params.rows * params.columns);
    var energy = 0.0;
    let norms = (params.first_layer + layer) * params.experts;
    for (var e = 0u; e < params.experts; e++) {
        energy += full[norms + e] - square[norms + e];
    }
    energy = max(energy, 0.0) / f32(params.experts);
    let row = (i / params.columns) * params.rank;
    let column = (layer * params.columns + i % params.columns) * params.rank;
    var grades = 0.0;
    var sum = 0.0;
    for (var j = 0u; j < params.rank; j++) {
        let s = grade(j);
        grades += s * s;
        sum += u[row + j] * s * v[column + j];
    }
    y[i] = sqrt(energy / grades) * sum;
}

// y[i] = |row i of x: [count, columns]|^2, of the columns from `rank` on.
@compute @workgroup_size(WG)
fn square_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    // A sum of partial sums: rounding grows with the longer of the two loops, not with their product.
    var sum = 0.0;
    for (var first = params.rank; first < params.columns; first += 128u) {
        var part = 0.0;
        let end = min(first + 128u, params.columns);
        for (var c = first; c < end; c++) {
            let value = x[i * params.columns + c];
            part += value * value;
        }
        sum += part;
    }
    y[i] = sum;
}

// y: [layers, experts, experts, rank, rank] = U_a^T U_b for each pair of a layer's u: [layers, experts, rows, rank].
@compute @workgroup_size(WG)
fn pair_products(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let k = params.rank;
    let pair = i / (k * k);
    let layer = pair / (params.experts * params.experts);
    let size = params.rows * k;
    let a = (layer * params.experts + pair / params.experts % params.experts) * size + i / k % k;
    let b = (layer * params.experts + pair % params.experts) * size + i % k;
    var cosine = 0.0;
    for (var row = 0u; row < params.rows; row++) {
        cosine += u[a + row * k] * u[b + row * k];
    }
    y[i] = cosine;
}
