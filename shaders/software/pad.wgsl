// A copy of matrices whose rows have any length, with rows up to a multiple of 4, columns up to one of 8, and zeros in what is
// added, so that the product can load four or eight elements at once.
//
// A thread copies a piece of a row, and its neighbours the same piece of the rows below: each of a subgroup's loads goes on in
// lines that the one before it has brought. It loads whole packs and shifts them, as four scalar loads cost twice as much.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read_write> padded: array<StoredPack>;

// Four elements from `shift` on of the eight in `low` and `high`.
fn shifted(low: vec4<f32>, high: vec4<f32>, shift: u32) -> vec4<f32> {
    let by_two = (shift & 2u) != 0u;
    let a = select(low, vec4(low.zw, high.xy), by_two);
    let b = select(high.x, high.z, by_two);
    return select(a, vec4(a.yzw, b), (shift & 1u) != 0u);
}

@compute @workgroup_size(WG)
fn pad(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let quads = (params.columns + 7u) / 8u * 2u;
    let rows = (params.rows + 3u) / 4u * 4u;
    let all_rows = params.matrices * rows;
    let index = workgroup_index(group, groups) * WG + lane;
    let padded_row = index % all_rows;
    let quad = index / all_rows * params.piece;
    if quad >= quads {
        return;
    }
    let row = padded_row % rows;
    let outside = row >= params.rows;
    // A row that is added reads the last one, for it must read something.
    let first = params.first + (padded_row / rows * params.rows + min(row, params.rows - 1u)) * params.columns + quad * 4u;
    let last = arrayLength(&x) - 1u;
    var low = wide(x[min(first / 4u, last)]);
    for (var i = 0u; i < min(params.piece, quads - quad); i++) {
        let high = wide(x[min(first / 4u + i + 1u, last)]);
        let column = (quad + i) * 4u;
        let kept = vec4(column, column + 1u, column + 2u, column + 3u) < vec4(params.columns);
        let four = narrow(select(vec4(0.0), shifted(low, high, first % 4u), kept));
        padded[padded_row * quads + quad + i] = select(four, StoredPack(), outside);
        low = high;
    }
}
