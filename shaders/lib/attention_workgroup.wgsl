// What the workgroup kernels of attention share: products of tiles of 32 x 32 numbers in workgroup memory, 4 x 4 a thread, in
// the manner of FlashAttention-2 (Dao 2023, arXiv 2307.08691). The form for GPUs.
//
// A workgroup owns 32 rows of one head (queries, or keys in dK and dV) and makes up to 32 PANELS columns of its output; the
// other operand's rows pass by in tiles of 32. Rows and columns go by fours, quads: of a tile's 8, a thread has `own` of the
// own rows and `other` of the passing rows, or of the 32 columns of a panel. All that it sums is in mat4x4 of which every
// index is known when the kernel is compiled: those stay in registers.
//
// The sums have a fixed order, whatever PANELS is.
//
// needs: lib/grid.wgsl, lib/attention_params.wgsl, attention_rows

const ROWS: u32 = 32u;
const WG: u32 = 64u;
// Quads of a tile's side.
const SIDE: u32 = 8u;
// Panels of 32 output columns: 1, 2, or (not for dK and dV, which are two outputs) 4.
override PANELS: u32 = 1;

// 32 x 32 numbers: by the step of the sum that they are an operand of (quad and place in it), then by quad of rows or
// columns. Eight neighbouring threads have one `other`: they read 8 neighbouring vec4 of the own rows' tile and one of the
// passing rows', and write 8 neighbouring ones. No bank of the memory is asked for two, and rows need no padding.
alias Tile = array<array<array<vec4<f32>, 8>, 4>, 8>;

// 12 KiB, and 1 for `shared_max` and `shared_sum`: of the 16 that WebGPU guarantees.
var<workgroup> tiles: array<Tile, 3>;
var<workgroup> sides: array<array<vec4<f32>, 8>, 8>;

// Of the own rows, then the first panel; of the passing rows, then the second; of the factors by which panels are summed.
const OWN: u32 = 0u;
const PASSING: u32 = 1u;
const FACTORS: u32 = 2u;

// A workgroup's part of the work.
struct Place {
    sequence: u32,
    head: u32,
    // the tile of own rows; none if it is no less than `tiles`
    tile: u32,
    tiles: u32,
    // first quad of its columns
    column: u32,
}

// Tiles come last, so that the order in which a kernel takes them is that in which workgroups start.
fn place(group: vec3<u32>, groups: vec3<u32>, heads: u32, width: u32) -> Place {
    let index = workgroup_index(group, groups);
    let block = SIDE * PANELS;
    let blocks = (quads(width) + block - 1u) / block;
    let head = index / blocks;
    let sequence = head / heads;
    let tile = sequence / params.sequences;
    let tiles = (params.seq + ROWS - 1u) / ROWS;
    return Place(sequence % params.sequences, head % heads, tile, tiles, index % blocks * block);
}

// Four positions from `first` on.
fn positions(first: u32) -> vec4<u32> {
    return vec4(first) + vec4(0u, 1u, 2u, 3u);
}

// Their rows in a tensor with `heads` heads. A position beyond the sequence is its last.
fn rows_of(sequence: u32, first: u32, heads: u32, head: u32) -> vec4<u32> {
    return (vec4(sequence * params.seq) + min(positions(first), vec4(params.seq - 1u))) * heads + vec4(head);
}

// One quad of four rows, by row.
fn quads_q(rows: vec4<u32>, quad: u32) -> mat4x4<f32> {
    return mat4x4(load_q(rows.x, quad), load_q(rows.y, quad), load_q(rows.z, quad), load_q(rows.w, quad));
}

fn quads_k(rows: vec4<u32>, quad: u32) -> mat4x4<f32> {
    return mat4x4(load_k(rows.x, quad), load_k(rows.y, quad), load_k(rows.z, quad), load_k(rows.w, quad));
}

fn quads_v(rows: vec4<u32>, quad: u32) -> mat4x4<f32> {
    return mat4x4(load_v(rows.x, quad), load_v(rows.y, quad), load_v(rows.z, quad), load_v(rows.w, quad));
}

fn quads_dy(rows: vec4<u32>, quad: u32) -> mat4x4<f32> {
    return mat4x4(load_dy(rows.x, quad), load_dy(rows.y, quad), load_dy(rows.z, quad), load_dy(rows.w, quad));
}

// A thread's part of a tile: four steps (`outer` is their quad) of one quad.
fn put(tile: u32, outer: u32, inner: u32, x: mat4x4<f32>) {
    tiles[tile][outer][0][inner] = x[0];
    tiles[tile][outer][1][inner] = x[1];
    tiles[tile][outer][2][inner] = x[2];
    tiles[tile][outer][3][inner] = x[3];
}

// Panels, of which a thread has four steps of one quad each, go where `add_panels` reads them.
fn put_panels(panels: Panels, own: u32, other: u32) {
    put(OWN, other, own, panels.near);
    if PANELS > 1u {
        put(PASSING, other, own, panels.far);
    }
}

// The other way: one quad in four steps.
fn take(tile: u32, outer: u32, inner: u32) -> mat4x4<f32> {
    return mat4x4(tiles[tile][outer][0][inner], tiles[tile][outer][1][inner], tiles[tile][outer][2][inner],
                  tiles[tile][outer][3][inner]);
}

// sum[j] += x y[j]
fn add_outer(sum: mat4x4<f32>, x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(sum[0] + x * y.x, sum[1] + x * y.y, sum[2] + x * y.z, sum[3] + x * y.w);
}

// Sums over `steps` quads of steps: by own row (component) and passing row or column (index).
fn multiply(start: mat4x4<f32>, a: u32, b: u32, steps: u32, own: u32, other: u32) -> mat4x4<f32> {
    var sum = start;
    for (var t = 0u; t < steps; t++) {
        let x = take(a, t, own);
        let y = take(b, t, other);
        sum = add_outer(sum, x[0], y[0]);
        sum = add_outer(sum, x[1], y[1]);
        sum = add_outer(sum, x[2], y[2]);
        sum = add_outer(sum, x[3], y[3]);
    }
    return sum;
}

// Two panels of an output, the second unused where PANELS is 1.
struct Panels {
    near: mat4x4<f32>,
    far: mat4x4<f32>,
}

// start + FACTORS x the panels that lie in the tiles of own and passing rows.
fn add_panels(start: Panels, own: u32, other: u32) -> Panels {
    var near = start.near;
    var far = start.far;
    for (var t = 0u; t < SIDE; t++) {
        let x = take(FACTORS, t, own);
        let y = take(OWN, t, other);
        near = add_outer(near, x[0], y[0]);
        near = add_outer(near, x[1], y[1]);
        near = add_outer(near, x[2], y[2]);
        near = add_outer(near, x[3], y[3]);
        if PANELS > 1u {
            let z = take(PASSING, t, other);
            far = add_outer(far, x[0], z[0]);
            far = add_outer(far, x[1], z[1]);
            far = add_outer(far, x[2], z[2]);
            far = add_outer(far, x[3], z[3]);
        }
    }
    return Panels(near, far);
}

// Products of query and key rows: by own row (component) and passing row (index). `query_rows` and `key_rows` are those that the
// thread loads, of quad `own` of either tile; `of_queries` and `of_keys` say which tile is OWN and which PASSING.
fn query_key(query_rows: vec4<u32>, key_rows: vec4<u32>, of_queries: u32, of_keys: u32, own: u32, other: u32) -> mat4x4<f32> {
    var sum = mat4x4<f32>();
    let width = quads(params.width);
    for (var t = 0u; t < width; t += SIDE) {
        let a = transpose(quads_q(query_rows, t + other));
        let b = transpose(quads_k(key_rows, t + other));
        // Loaded before all threads are through with what the tiles had.
        workgroupBarrier();
        put(of_queries, other, own, a);
        put(of_keys, other, own, b);
        workgroupBarrier();
        sum = multiply(sum, OWN, PASSING, min(SIDE, width - t), own, other);
    }
    return sum;
}

// As `query_key`, of the rows of dy and v.
fn dy_value(query_rows: vec4<u32>, key_rows: vec4<u32>, of_queries: u32, of_keys: u32, own: u32, other: u32) -> mat4x4<f32> {
    var sum = mat4x4<f32>();
    let width = quads(params.value_width);
    for (var t = 0u; t < width; t += SIDE) {
        let a = transpose(quads_dy(query_rows, t + other));
        let b = transpose(quads_v(key_rows, t + other));
        workgroupBarrier();
        put(of_queries, other, own, a);
        put(of_keys, other, own, b);
        workgroupBarrier();
        sum = multiply(sum, OWN, PASSING, min(SIDE, width - t), own, other);
    }
    return sum;
}

// Softmax's numerator over its denominator: at most 1.
fn probability(score: vec4<f32>, lse: vec4<f32>) -> vec4<f32> {
    return exp2(min(score * params.scale - lse, vec4(0.0)));
}

// By own query (component) and passing key (index) from `seen` on: `hidden` where the key comes after the query.
fn causal(x: mat4x4<f32>, hidden: f32, seen: u32, query: vec4<u32>) -> mat4x4<f32> {
    return mat4x4(select(vec4(hidden), x[0], vec4(seen) <= query), select(vec4(hidden), x[1], vec4(seen + 1u) <= query),
                  select(vec4(hidden), x[2], vec4(seen + 2u) <= query), select(vec4(hidden), x[3], vec4(seen + 3u) <= query));
}

// Likewise, where the key comes before the query's window.
fn windowed(x: mat4x4<f32>, hidden: f32, seen: u32, query: vec4<u32>) -> mat4x4<f32> {
    let end = vec4(seen + params.window);
    return mat4x4(select(vec4(hidden), x[0], query < end), select(vec4(hidden), x[1], query < end + 1u),
                  select(vec4(hidden), x[2], query < end + 2u), select(vec4(hidden), x[3], query < end + 3u));
}

// Four columns (index) of four own rows (component) of the first output, those rows that there are.
fn store_quads(rows: vec4<u32>, valid: vec4<bool>, width: u32, quad: u32, x: mat4x4<f32>) {
    let y = transpose(x);
    if valid.x { store_a(rows.x, width, quad, y[0]); }
    if valid.y { store_a(rows.y, width, quad, y[1]); }
    if valid.z { store_a(rows.z, width, quad, y[2]); }
    if valid.w { store_a(rows.w, width, quad, y[3]); }
}

fn times(x: mat4x4<f32>, factor: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(x[0] * factor, x[1] * factor, x[2] * factor, x[3] * factor);
}
