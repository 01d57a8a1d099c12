// Attention of the new rows of one sequence to a cache of keys and values, forward alone.
//
// A row is a query of one head; the rows of a key/value head are those of the heads that share it, position after position.
// A workgroup takes ROWS of them, a part of the keys and up to COLUMNS WG packs of the output's columns. It goes through its
// keys in blocks: a thread has STEP keys for the scores and COLUMNS packs of columns for the sums over values, so that each
// key and value is read once for all rows. The parts' sums are merged in order by a second kernel.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;
// 1, 2, 4 or 8.
override ROWS: u32 = 8;
// Keys of a thread, 1 or 4, and packs of columns, 1 or 2: more where a load costs more than a thread that is idle.
override STEP: u32 = 1;
override COLUMNS: u32 = 1;
// Keys of a block: STEP WG.
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

// Of each row the products with four keys, of which only the first counts where STEP is 1.
struct Scores {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
    r4: vec4<f32>,
    r5: vec4<f32>,
    r6: vec4<f32>,
    r7: vec4<f32>,
}

struct Keys {
    x0: Pack,
    x1: Pack,
    x2: Pack,
    x3: Pack,
}

fn products(query: Pack, keys: Keys) -> vec4<f32> {
    if STEP == 1u {
        return vec4(pack_dot(query, keys.x0), 0.0, 0.0, 0.0);
    }
    return vec4(pack_dot(query, keys.x0), pack_dot(query, keys.x1), pack_dot(query, keys.x2), pack_dot(query, keys.x3));
}

fn scores(at: Places, key_at: vec4<u32>) -> Scores {
    var s = Scores();
    for (var t = 0u; t < params.width; t++) {
        var keys = Keys();
        keys.x0 = wide(k[key_at.x + t]);
        if STEP > 1u {
            keys.x1 = wide(k[key_at.y + t]);
            keys.x2 = wide(k[key_at.z + t]);
            keys.x3 = wide(k[key_at.w + t]);
        }
        s.r0 += products(wide(q[at.low.x + t]), keys);
        if ROWS > 1u {
            s.r1 += products(wide(q[at.low.y + t]), keys);
        }
        if ROWS > 2u {
            s.r2 += products(wide(q[at.low.z + t]), keys);
            s.r3 += products(wide(q[at.low.w + t]), keys);
        }
        if ROWS > 4u {
            s.r4 += products(wide(q[at.high.x + t]), keys);
            s.r5 += products(wide(q[at.high.y + t]), keys);
            s.r6 += products(wide(q[at.high.z + t]), keys);
            s.r7 += products(wide(q[at.high.w + t]), keys);
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

// The sums over values of one pack of columns, by row.
struct Sums {
    o0: Pack,
    o1: Pack,
    o2: Pack,
    o3: Pack,
    o4: Pack,
    o5: Pack,
    o6: Pack,
    o7: Pack,
}

fn times(o: Sums, factor: Rows) -> Sums {
    var y = o;
    y.o0 *= factor.low.x;
    if ROWS > 1u {
        y.o1 *= factor.low.y;
    }
    if ROWS > 2u {
        y.o2 *= factor.low.z;
        y.o3 *= factor.low.w;
    }
    if ROWS > 4u {
        y.o4 *= factor.high.x;
        y.o5 *= factor.high.y;
        y.o6 *= factor.high.z;
        y.o7 *= factor.high.w;
    }
    return y;
}

// o + p x, the weights p by row.
fn plus(o: Sums, p: Rows, x: Pack) -> Sums {
    var y = o;
    y.o0 += p.low.x * x;
    if ROWS > 1u {
        y.o1 += p.low.y * x;
    }
    if ROWS > 2u {
        y.o2 += p.low.z * x;
        y.o3 += p.low.w * x;
    }
    if ROWS > 4u {
        y.o4 += p.high.x * x;
        y.o5 += p.high.y * x;
        y.o6 += p.high.z * x;
        y.o7 += p.high.w * x;
    }
    return y;
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

fn column_totals(o: Sums, lane: u32, span: u32) -> Sums {
    var y = o;
    y.o0 = column_total(o.o0, lane, span);
    if ROWS > 1u {
        y.o1 = column_total(o.o1, lane, span);
    }
    if ROWS > 2u {
        y.o2 = column_total(o.o2, lane, span);
        y.o3 = column_total(o.o3, lane, span);
    }
    if ROWS > 4u {
        y.o4 = column_total(o.o4, lane, span);
        y.o5 = column_total(o.o5, lane, span);
        y.o6 = column_total(o.o6, lane, span);
        y.o7 = column_total(o.o7, lane, span);
    }
    return y;
}

fn store_one(part: u32, row: u32, column: u32, sum: Pack, top: f32, weight: f32) {
    let at = part * params.rows * params.heads + row;
    sums_out[at * params.value_width + column] = sum;
    if column == 0u {
        weights_out[at] = vec2(top, weight);
    }
}

// The rows from `first` on, of those that there are.
fn store(part: u32, kv_head: u32, first: u32, column: u32, o: Sums, top: Rows, weight: Rows) {
    let rows = min(ROWS, params.rows * params.share - first);
    store_one(part, row_of(first, kv_head), column, o.o0, top.low.x, weight.low.x);
    if rows > 1u { store_one(part, row_of(first + 1u, kv_head), column, o.o1, top.low.y, weight.low.y); }
    if rows > 2u { store_one(part, row_of(first + 2u, kv_head), column, o.o2, top.low.z, weight.low.z); }
    if rows > 3u { store_one(part, row_of(first + 3u, kv_head), column, o.o3, top.low.w, weight.low.w); }
    if rows > 4u { store_one(part, row_of(first + 4u, kv_head), column, o.o4, top.high.x, weight.high.x); }
    if rows > 5u { store_one(part, row_of(first + 5u, kv_head), column, o.o5, top.high.y, weight.high.y); }
    if rows > 6u { store_one(part, row_of(first + 6u, kv_head), column, o.o6, top.high.z, weight.high.z); }
    if rows > 7u { store_one(part, row_of(first + 7u, kv_head), column, o.o7, top.high.w, weight.high.w); }
}

fn put_key(j: u32, key: u32, s: vec4<f32>, more: vec4<f32>, near: vec4<u32>, far: vec4<u32>) {
    low[j] = masked(s, key, near);
    if ROWS > 4u { high[j] = masked(more, key, far); }
}

@compute @workgroup_size(WG)
fn cached_attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let blocks = (params.value_width + WG * COLUMNS - 1u) / (WG * COLUMNS);
    let tiles = (params.rows * params.share + ROWS - 1u) / ROWS;
    let first_column = index % blocks * WG * COLUMNS;
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
    let width = min(params.value_width - first_column, WG * COLUMNS);
    let span = (width + COLUMNS - 1u) / COLUMNS;
    let column = first_column + lane % span;
    let next = min(column + span, params.value_width - 1u);
    let sharing = WG / span;

    var top = Rows(vec4(NEVER), vec4(NEVER));
    // Of the thread's own keys.
    var weight = Rows();
    var o = Sums();
    var o_next = Sums();
    for (var block = begin; block < end; block += KEYS) {
        let count = min(KEYS, end - block);
        let own = STEP * lane;
        if own < count {
            let keys = vec4(block) + min(vec4(own) + vec4(0u, 1u, 2u, 3u), vec4(count - 1u));
            let s = scores(at, ((keys - vec4(params.bound)) * params.kv_heads + vec4(kv_head)) * params.width);
            put_key(own, keys.x, vec4(s.r0.x, s.r1.x, s.r2.x, s.r3.x), vec4(s.r4.x, s.r5.x, s.r6.x, s.r7.x), near, far);
            if STEP > 1u {
                put_key(own + 1u, keys.y, vec4(s.r0.y, s.r1.y, s.r2.y, s.r3.y), vec4(s.r4.y, s.r5.y, s.r6.y, s.r7.y), near, far);
                put_key(own + 2u, keys.z, vec4(s.r0.z, s.r1.z, s.r2.z, s.r3.z), vec4(s.r4.z, s.r5.z, s.r6.z, s.r7.z), near, far);
                put_key(own + 3u, keys.w, vec4(s.r0.w, s.r1.w, s.r2.w, s.r3.w), vec4(s.r4.w, s.r5.w, s.r6.w, s.r7.w), near, far);
            }
        }
        let higher = largest(top, lane, count);
        let shrink = Rows(exp2(top.low - higher.low), exp2(top.high - higher.high));
        top = higher;
        weight = Rows(weight.low * shrink.low, weight.high * shrink.high);
        for (var j = own; j < min(own + STEP, count); j++) {
            let p = exp2(low[j] - top.low);
            low[j] = p;
            weight.low += p;
            if ROWS > 4u {
                let p = exp2(high[j] - top.high);
                high[j] = p;
                weight.high += p;
            }
        }
        workgroupBarrier();
        o = times(o, shrink);
        if COLUMNS > 1u {
            o_next = times(o_next, shrink);
        }
        if lane < sharing * span {
            for (var j = lane / span; j < count; j += sharing) {
                let row = ((block + j - params.bound) * params.kv_heads + kv_head) * params.value_width;
                var p = Rows(low[j], vec4<f32>());
                if ROWS > 4u {
                    p.high = high[j];
                }
                o = plus(o, p, wide(v[row + column]));
                if COLUMNS > 1u {
                    o_next = plus(o_next, p, wide(v[row + next]));
                }
            }
        }
        workgroupBarrier();
    }
    weight = total(weight, lane);
    o = column_totals(o, lane, span);
    if COLUMNS > 1u {
        o_next = column_totals(o_next, lane, span);
    }
    if lane >= span {
        return;
    }
    let to = params.first_part + part;
    store(to, kv_head, first, column, o, top, weight);
    if COLUMNS > 1u && column + span < first_column + width {
        store(to, kv_head, first, column + span, o_next, top, weight);
    }
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
