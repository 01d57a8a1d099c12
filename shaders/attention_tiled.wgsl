// Causal attention through workgroup memory: the form for GPUs, and for any head_dim up to WIDTH.
// Needs lib/grid.wgsl, lib/pack_scalar.wgsl, lib/attention_params.wgsl.
//
// A workgroup owns ROWS rows of one head (queries, or keys in dK and dV) and takes the other operand's rows in tiles of
// PASSING. Four threads share an own row: thread r * 4 + quarter has the columns quarter, quarter + 4, ... of row r.

override ROWS: u32 = 16;
override PASSING: u32 = 8;
override WIDTH: u32 = 64;

@group(0) @binding(4) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> out_a: array<StoredPack>;
// lse, which is always f32, or dv
@group(0) @binding(8) var<storage, read_write> out_b: array<RealOutB>;

// A score that stands for minus infinity.
const NEVER: f32 = -1e30;
// Columns of a thread: the largest head_dim over 4.
const COLUMNS: u32 = 32u;

// One element of padding a row keeps threads that read a column of rows off each other's memory bank.
var<workgroup> own_a: array<f32, ROWS * (WIDTH + 1)>;
var<workgroup> own_b: array<f32, ROWS * (WIDTH + 1)>;
var<workgroup> pass_a: array<f32, PASSING * (WIDTH + 1)>;
var<workgroup> pass_b: array<f32, PASSING * (WIDTH + 1)>;
var<workgroup> weight_a: array<f32, ROWS * PASSING>;
var<workgroup> weight_b: array<f32, ROWS * PASSING>;

struct Place {
    sequence: u32,
    head: u32,
    // first own row in its sequence
    first: u32,
}

fn place(group: vec3<u32>, groups: vec3<u32>, heads: u32) -> Place {
    let index = workgroup_index(group, groups);
    let tiles = (params.seq + ROWS - 1u) / ROWS;
    return Place(index / tiles / heads, index / tiles % heads, index % tiles * ROWS);
}

// Start of a row of a head, the row clamped to its sequence.
fn row_start(sequence: u32, row: u32, heads: u32, head: u32) -> u32 {
    return ((sequence * params.seq + min(row, params.seq - 1u)) * heads + head) * params.width;
}

// Element `i` of a tile of rows of a head from row `first` on: its place in workgroup memory and in the tensor.
struct Cell {
    slot: u32,
    at: u32,
    inside: bool,
}

fn cell(i: u32, sequence: u32, first: u32, heads: u32, head: u32) -> Cell {
    let d = i % WIDTH;
    let start = row_start(sequence, first + i / WIDTH, heads, head);
    return Cell(i / WIDTH * (WIDTH + 1u) + d, start + min(d, params.width - 1u), d < params.width);
}

// pass_a = k, pass_b = v
fn pass_keys(sequence: u32, first: u32, kv_head: u32, lane: u32) {
    for (var i = lane; i < PASSING * WIDTH; i += ROWS * 4u) {
        let c = cell(i, sequence, first, params.kv_heads, kv_head);
        pass_a[c.slot] = select(0.0, wide(k[c.at]), c.inside);
        pass_b[c.slot] = select(0.0, wide(v[c.at]), c.inside);
    }
}

fn dot_a(r: u32, c: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < WIDTH; d++) {
        sum += own_a[r * (WIDTH + 1u) + d] * pass_a[c * (WIDTH + 1u) + d];
    }
    return sum;
}

fn dot_b(r: u32, c: u32) -> f32 {
    var sum = 0.0;
    for (var d = 0u; d < WIDTH; d++) {
        sum += own_b[r * (WIDTH + 1u) + d] * pass_b[c * (WIDTH + 1u) + d];
    }
    return sum;
}

// Softmax's numerator over its denominator: at most 1.
fn probability(score: f32, row_lse: f32) -> f32 {
    return exp2(min(score * params.scale - row_lse, 0.0));
}

// y (out_a) and lse (out_b); own_a = q, pass_a = k, pass_b = v.
@compute @workgroup_size(ROWS * 4)
fn attention_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let at = place(group, groups, params.heads);
    if at.sequence >= params.sequences {
        return;
    }
    let r = lane / 4u;
    let quarter = lane % 4u;
    let query = at.first + r;
    let kv_head = at.head / (params.heads / params.kv_heads);
    for (var i = lane; i < ROWS * WIDTH; i += ROWS * 4u) {
        let c = cell(i, at.sequence, at.first, params.heads, at.head);
        own_a[c.slot] = select(0.0, wide(q[c.at]), c.inside);
    }
    var o: array<f32, COLUMNS>;
    var top = NEVER;
    var total = 0.0;
    for (var key = 0u; key < min(at.first + ROWS, params.seq); key += PASSING) {
        workgroupBarrier();
        pass_keys(at.sequence, key, kv_head, lane);
        workgroupBarrier();
        for (var c = quarter; c < PASSING; c += 4u) {
            weight_a[r * PASSING + c] = select(NEVER, dot_a(r, c) * params.scale, key + c <= query);
        }
        workgroupBarrier();
        var higher = top;
        for (var c = 0u; c < PASSING; c++) {
            higher = max(higher, weight_a[r * PASSING + c]);
        }
        let shrink = exp2(top - higher);
        top = higher;
        total *= shrink;
        for (var n = 0u; n < WIDTH / 4u; n++) {
            o[n] *= shrink;
        }
        for (var c = 0u; c < PASSING; c++) {
            let p = exp2(weight_a[r * PASSING + c] - top);
            total += p;
            for (var n = 0u; n < WIDTH / 4u; n++) {
                o[n] += p * pass_b[c * (WIDTH + 1u) + quarter + 4u * n];
            }
        }
    }
    if query < params.seq {
        let start = row_start(at.sequence, query, params.heads, at.head);
        for (var d = quarter; d < params.width; d += 4u) {
            out_a[start + d] = narrow(o[d / 4u] / total);
        }
        if quarter == 0u {
            out_b[(at.sequence * params.seq + query) * params.heads + at.head] = RealOutB(top + log2(total));
        }
    }
}

// dq (out_a); own_a = q, own_b = dy, pass_a = k, pass_b = v.
@compute @workgroup_size(ROWS * 4)
fn attention_dq_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let at = place(group, groups, params.heads);
    if at.sequence >= params.sequences {
        return;
    }
    let r = lane / 4u;
    let quarter = lane % 4u;
    let query = at.first + r;
    let kv_head = at.head / (params.heads / params.kv_heads);
    for (var i = lane; i < ROWS * WIDTH; i += ROWS * 4u) {
        let c = cell(i, at.sequence, at.first, params.heads, at.head);
        own_a[c.slot] = select(0.0, wide(q[c.at]), c.inside);
        own_b[c.slot] = select(0.0, wide(dy[c.at]), c.inside);
    }
    let row = (at.sequence * params.seq + min(query, params.seq - 1u)) * params.heads + at.head;
    let own_lse = lse[row];
    let own_delta = delta[row];
    var o: array<f32, COLUMNS>;
    for (var key = 0u; key < min(at.first + ROWS, params.seq); key += PASSING) {
        workgroupBarrier();
        pass_keys(at.sequence, key, kv_head, lane);
        workgroupBarrier();
        for (var c = quarter; c < PASSING; c += 4u) {
            let gradient = probability(dot_a(r, c), own_lse) * (dot_b(r, c) - own_delta);
            weight_a[r * PASSING + c] = select(0.0, gradient, key + c <= query);
        }
        workgroupBarrier();
        for (var c = 0u; c < PASSING; c++) {
            let weight = weight_a[r * PASSING + c];
            for (var n = 0u; n < WIDTH / 4u; n++) {
                o[n] += weight * pass_a[c * (WIDTH + 1u) + quarter + 4u * n];
            }
        }
    }
    if query < params.seq {
        for (var d = quarter; d < params.width; d += 4u) {
            var sum = params.scale_out * o[d / 4u];
            if params.beta != 0.0 {
                sum += params.beta * wide(out_a[row * params.width + d]);
            }
            out_a[row * params.width + d] = narrow(sum);
        }
    }
}

// dk (out_a) and dv (out_b); own_a = k, own_b = v, pass_a = q, pass_b = dy.
@compute @workgroup_size(ROWS * 4)
fn attention_dkv_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32) {
    let at = place(group, groups, params.kv_heads);
    if at.sequence >= params.sequences {
        return;
    }
    let r = lane / 4u;
    let quarter = lane % 4u;
    let key = at.first + r;
    for (var i = lane; i < ROWS * WIDTH; i += ROWS * 4u) {
        let c = cell(i, at.sequence, at.first, params.kv_heads, at.head);
        own_a[c.slot] = select(0.0, wide(k[c.at]), c.inside);
        own_b[c.slot] = select(0.0, wide(v[c.at]), c.inside);
    }
    let share = params.heads / params.kv_heads;
    var o_k: array<f32, COLUMNS>;
    var o_v: array<f32, COLUMNS>;
    for (var head = at.head * share + params.share_first; head < at.head * share + params.share_last; head++) {
        // ROWS is a multiple of PASSING: the tile that begins at the first own key has the first query that sees it.
        for (var query = at.first; query < params.seq; query += PASSING) {
            workgroupBarrier();
            for (var i = lane; i < PASSING * WIDTH; i += ROWS * 4u) {
                let c = cell(i, at.sequence, query, params.heads, head);
                pass_a[c.slot] = select(0.0, wide(q[c.at]), c.inside);
                pass_b[c.slot] = select(0.0, wide(dy[c.at]), c.inside);
            }
            workgroupBarrier();
            for (var c = quarter; c < PASSING; c += 4u) {
                let row = (at.sequence * params.seq + min(query + c, params.seq - 1u)) * params.heads + head;
                let seen = key <= query + c && query + c < params.seq;
                let p = select(0.0, probability(dot_a(r, c), lse[row]), seen);
                weight_a[r * PASSING + c] = p * (dot_b(r, c) - delta[row]);
                weight_b[r * PASSING + c] = p;
            }
            workgroupBarrier();
            for (var c = 0u; c < PASSING; c++) {
                let weight_k = weight_a[r * PASSING + c];
                let weight_v = weight_b[r * PASSING + c];
                for (var n = 0u; n < WIDTH / 4u; n++) {
                    o_k[n] += weight_k * pass_a[c * (WIDTH + 1u) + quarter + 4u * n];
                    o_v[n] += weight_v * pass_b[c * (WIDTH + 1u) + quarter + 4u * n];
                }
            }
        }
    }
    if key < params.seq {
        let start = row_start(at.sequence, key, params.kv_heads, at.head);
        for (var d = quarter; d < params.width; d += 4u) {
            var sum_k = params.scale_out * o_k[d / 4u];
            var sum_v = o_v[d / 4u];
            if params.beta != 0.0 {
                sum_k += params.beta * wide(out_a[start + d]);
                sum_v += params.beta * f32(out_b[start + d]);
            }
            out_a[start + d] = narrow(sum_k);
            out_b[start + d] = RealOutB(sum_v);
        }
    }
}
