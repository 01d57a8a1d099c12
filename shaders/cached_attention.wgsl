// Attention of the new rows of one sequence to a cache of keys and values, forward alone.
//
// A row is a query of one head; the rows of a key/value head are those of the heads that share it, position after position.
// A workgroup takes ROWS of them, a part of the keys and up to WG packs of the output's columns. It goes through its keys
// in blocks: a thread has a key for the scores and a pack of columns for the sums over values, so that each key and value is
// read once for all rows. The parts' sums are merged in order by a second kernel.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;
// 1, 4 or 8.
override ROWS: u32 = 8;
// Keys of a block, a multiple of WG.
override KEYS: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<StoredPack>;
@group(0) @binding(2) var<storage, read> k: array<StoredPack>;
@group(0) @binding(3) var<storage, read> v: array<StoredPack>;
// By part and row: the sum over values, and the largest score with the sum of the weights.
@group(0) @binding(4) var<storage, read_write> sums_out: array<Pack>;
@group(0) @binding(5) var<storage, read_write> weights_out: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> sums: array<Pack>;
@group(0) @binding(7) var<storage, read> weights: array<vec2<f32>>;
@group(0) @binding(8) var<storage, read_write> y: array<StoredPack>;

// A score that stands for minus infinity.
const NEVER: f32 = -1e30;
// Threads that first reduce what all have.
const FEW: u32 = 8u;

// Of each key, or thread, a number for each row.
var<workgroup> low: array<vec4<f32>, KEYS>;
var<workgroup> high: array<vec4<f32>, KEYS>;
var<workgroup> few_low: array<vec4<f32>, FEW>;
var<workgroup> few_high: array<vec4<f32>, FEW>;
var<workgroup> columns: array<Pack, WG>;

// A number for each of 8 rows.
struct Rows {
    low: vec4<f32>,
    high: vec4<f32>,
}

// The rows' places in q.
struct Places {
    low: vec4<u32>,
    high: vec4<u32>,
}

// Of the rows of the key/value head the number of the `i`-th of this workgroup; beyond the last that one.
fn own_row(first: u32, i: u32) -> u32 {
    return min(first + i, params.rows * params.share - 1u);
}

// The number among all rows.
fn row_of(own: u32, kv_head: u32) -> u32 {
    return own / params.share * params.heads + kv_head * params.share + own % params.share;
}

fn rows_of(first: u32, kv_head: u32) -> vec4<u32> {
    return vec4(row_of(own_row(first, 0u), kv_head), row_of(own_row(first, 1u), kv_head),
                row_of(own_row(first, 2u), kv_head), row_of(own_row(first, 3u), kv_head));
}

fn positions_of(first: u32) -> vec4<u32> {
    return vec4(params.past) + vec4(own_row(first, 0u), own_row(first, 1u), own_row(first, 2u), own_row(first, 3u)) / params.share;
}

fn scores(at: Places, key_at: u32) -> Rows {
    var s = Rows();
    for (var t = 0u; t < params.width; t++) {
        let x = wide(k[key_at + t]);
        s.low.x += pack_dot(wide(q[at.low.x + t]), x);
        if ROWS > 1u {
            s.low.y += pack_dot(wide(q[at.low.y + t]), x);
            s.low.z += pack_dot(wide(q[at.low.z + t]), x);
            s.low.w += pack_dot(wide(q[at.low.w + t]), x);
        }
        if ROWS > 4u {
            s.high.x += pack_dot(wide(q[at.high.x + t]), x);
            s.high.y += pack_dot(wide(q[at.high.y + t]), x);
            s.high.z += pack_dot(wide(q[at.high.z + t]), x);
            s.high.w += pack_dot(wide(q[at.high.w + t]), x);
        }
    }
    return s;
}

fn masked(score: vec4<f32>, key: u32, position: vec4<u32>) -> vec4<f32> {
    let seen = (vec4(key) <= position) & (position < vec4(key + params.window));
    return select(vec4(NEVER), score * params.scale, seen);
}

// The largest of the first `count` numbers of each row, and of `start`.
fn largest(start: Rows, lane: u32, count: u32) -> Rows {
    workgroupBarrier();
    if lane < FEW {
        var a = vec4(NEVER);
        var b = vec4(NEVER);
        for (var j = lane; j < count; j += FEW) {
            a = max(a, low[j]);
            if ROWS > 4u { b = max(b, high[j]); }
        }
        few_low[lane] = a;
        few_high[lane] = b;
    }
    workgroupBarrier();
    var a = start.low;
    var b = start.high;
    for (var i = 0u; i < FEW; i++) {
        a = max(a, few_low[i]);
        if ROWS > 4u { b = max(b, few_high[i]); }
    }
    return Rows(a, b);
}

// The sum of all threads' numbers, in a fixed order.
fn total(own: Rows, lane: u32) -> Rows {
    low[lane] = own.low;
    high[lane] = own.high;
    workgroupBarrier();
    if lane < FEW {
        var a = vec4<f32>();
        var b = vec4<f32>();
        for (var j = lane; j < WG; j += FEW) {
            a += low[j];
            b += high[j];
        }
        few_low[lane] = a;
        few_high[lane] = b;
    }
    workgroupBarrier();
    var a = vec4<f32>();
    var b = vec4<f32>();
    for (var i = 0u; i < FEW; i++) {
        a += few_low[i];
        b += few_high[i];
    }
    return Rows(a, b);
}

// The sum of what the threads of one column have, for the first `span` threads.
fn column_total(x: Pack, lane: u32, span: u32) -> Pack {
    workgroupBarrier();
    columns[lane] = x;
    workgroupBarrier();
    var sum = x;
    for (var j = lane + span; j < WG / span * span; j += span) {
        sum += columns[j];
    }
    return sum;
}

fn store(part: u32, row: u32, column: u32, sum: Pack, top: f32, weight: f32) {
    let at = part * params.rows * params.heads + row;
    sums_out[at * params.value_width + column] = sum;
    if column == 0u {
        weights_out[at] = vec2(top, weight);
    }
}

@compute @workgroup_size(WG)
fn cached_attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let blocks = (params.value_width + WG - 1u) / WG;
    let tiles = (params.rows * params.share + ROWS - 1u) / ROWS;
    let first_column = index % blocks * WG;
    let first = index / blocks % tiles * ROWS;
    let kv_head = index / blocks / tiles % params.kv_heads;
    let part = index / blocks / tiles / params.kv_heads;
    if part >= params.parts {
        return;
    }
    let at = Places(rows_of(first, kv_head) * params.width, rows_of(first + 4u, kv_head) * params.width);
    let near = positions_of(first);
    let far = positions_of(first + 4u);
    // The keys that any of the rows sees.
    let earliest = params.past + own_row(first, 0u) / params.share;
    let latest = params.past + own_row(first, ROWS - 1u) / params.share;
    let begin = max(params.first_key + part * params.part_keys, max(earliest + 1u, params.window) - params.window);
    let end = min(min(params.first_key + (part + 1u) * params.part_keys, params.end_key), latest + 1u);
    // Threads by column; each of those of one column has every so many keys.
    let span = min(params.value_width - first_column, WG);
    let column = first_column + lane % span;
    let sharing = WG / span;

    var top = Rows(vec4(NEVER), vec4(NEVER));
    // Of the thread's own keys.
    var weight = Rows();
    var o0 = Pack();
    var o1 = Pack();
    var o2 = Pack();
    var o3 = Pack();
    var o4 = Pack();
    var o5 = Pack();
    var o6 = Pack();
    var o7 = Pack();
    for (var block = begin; block < end; block += KEYS) {
        let count = min(KEYS, end - block);
        for (var j = lane; j < count; j += WG) {
            let key = block + j;
            let s = scores(at, ((key - params.bound) * params.kv_heads + kv_head) * params.width);
            low[j] = masked(s.low, key, near);
            if ROWS > 4u { high[j] = masked(s.high, key, far); }
        }
        let higher = largest(top, lane, count);
        let shrink = Rows(exp2(top.low - higher.low), exp2(top.high - higher.high));
        top = higher;
        weight = Rows(weight.low * shrink.low, weight.high * shrink.high);
        for (var j = lane; j < count; j += WG) {
            low[j] = exp2(low[j] - top.low);
            weight.low += low[j];
            if ROWS > 4u {
                high[j] = exp2(high[j] - top.high);
                weight.high += high[j];
            }
        }
        workgroupBarrier();
        o0 *= shrink.low.x;
        if ROWS > 1u {
            o1 *= shrink.low.y;
            o2 *= shrink.low.z;
            o3 *= shrink.low.w;
        }
        if ROWS > 4u {
            o4 *= shrink.high.x;
            o5 *= shrink.high.y;
            o6 *= shrink.high.z;
            o7 *= shrink.high.w;
        }
        if lane < sharing * span {
            for (var j = lane / span; j < count; j += sharing) {
                let x = wide(v[((block + j - params.bound) * params.kv_heads + kv_head) * params.value_width + column]);
                let p = low[j];
                o0 += p.x * x;
                if ROWS > 1u {
                    o1 += p.y * x;
                    o2 += p.z * x;
                    o3 += p.w * x;
                }
                if ROWS > 4u {
                    let p = high[j];
                    o4 += p.x * x;
                    o5 += p.y * x;
                    o6 += p.z * x;
                    o7 += p.w * x;
                }
            }
        }
        workgroupBarrier();
    }
    weight = total(weight, lane);
    o0 = column_total(o0, lane, span);
    if ROWS > 1u {
        o1 = column_total(o1, lane, span);
        o2 = column_total(o2, lane, span);
        o3 = column_total(o3, lane, span);
    }
    if ROWS > 4u {
        o4 = column_total(o4, lane, span);
        o5 = column_total(o5, lane, span);
        o6 = column_total(o6, lane, span);
        o7 = column_total(o7, lane, span);
    }
    if lane >= span {
        return;
    }
    let rows = min(ROWS, params.rows * params.share - first);
    let to = params.first_part + part;
    store(to, row_of(first, kv_head), column, o0, top.low.x, weight.low.x);
    if rows > 1u { store(to, row_of(first + 1u, kv_head), column, o1, top.low.y, weight.low.y); }
    if rows > 2u { store(to, row_of(first + 2u, kv_head), column, o2, top.low.z, weight.low.z); }
    if rows > 3u { store(to, row_of(first + 3u, kv_head), column, o3, top.low.w, weight.low.w); }
    if rows > 4u { store(to, row_of(first + 4u, kv_head), column, o4, top.high.x, weight.high.x); }
    if rows > 5u { store(to, row_of(first + 5u, kv_head), column, o5, top.high.y, weight.high.y); }
    if rows > 6u { store(to, row_of(first + 6u, kv_head), column, o6, top.high.z, weight.high.z); }
    if rows > 7u { store(to, row_of(first + 7u, kv_head), column, o7, top.high.w, weight.high.w); }
}

// y = the parts' sums over the parts' weights, each by how its largest score compares with that of all.
@compute @workgroup_size(WG)
fn cached_attention_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                          @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let rows = params.rows * params.heads;
    let row = i / params.value_width;
    if row >= rows {
        return;
    }
    var top = NEVER;
    for (var part = 0u; part < params.parts; part++) {
        top = max(top, weights[part * rows + row].x);
    }
    var sum = Pack();
    var weight = 0.0;
    for (var part = 0u; part < params.parts; part++) {
        let own = weights[part * rows + row];
        let factor = exp2(own.x - top);
        weight += factor * own.y;
        sum += factor * sums[part * rows * params.value_width + i];
    }
    y[i] = narrow(sum / weight);
}
