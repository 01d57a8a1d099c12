// Causal attention, forward: y = softmax(scale q k^T) v by head, one pass over the keys with a running maximum
// (Dao et al. 2022). A lane owns 4 queries.
//
// needs: lib/grid.wgsl, software/attention_tile.wgsl

@group(0) @binding(4) var<storage, read_write> y: array<StoredPack>;
// log2 of the sum of 2^score, by row and head
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;

// A score that stands for minus infinity.
const NEVER: f32 = -1e30;

fn mask(score: vec4<f32>, query: vec4<u32>, key: u32) -> vec4<f32> {
    return select(vec4(NEVER), score * params.scale, sees(query, vec4(key)));
}

fn scale_columns(o: mat4x4<f32>, factor: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(o[0] * factor, o[1] * factor, o[2] * factor, o[3] * factor);
}

fn store(at: vec4<u32>, valid: vec4<bool>, column: u32, o: mat4x4<f32>) {
    if column < params.width {
        let rows = transpose(o);
        if valid.x { y[at.x + column] = narrow(rows[0]); }
        if valid.y { y[at.y + column] = narrow(rows[1]); }
        if valid.z { y[at.z + column] = narrow(rows[2]); }
        if valid.w { y[at.w + column] = narrow(rows[3]); }
    }
}

@compute @workgroup_size(SG)
fn attention_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(subgroup_invocation_id) lane: u32) {
    let own = 4u * SG;
    let place = place(group, groups, params.heads);
    let first = place.first;
    let block = place.block;
    let head = place.head;
    let sequence = place.sequence;
    if sequence >= params.sequences {
        return;
    }
    let last = params.seq - 1u;
    let query = vec4(first + 4u * lane) + vec4(0u, 1u, 2u, 3u);
    let row = sequence * params.seq + min(query, vec4(last));
    let q_at = (row * params.heads + head) * params.width;
    let kv_head = head / (params.heads / params.kv_heads);
    let column = min(block * BLOCK + lane % BLOCK, params.width - 1u);

    var o = Columns();
    var top = vec4(NEVER);
    var sum = vec4(0.0);
    for (var key = first_key(first, PASSING); key <= min(first + own - 1u, last); key += PASSING) {
        var s = Tile();
        let a_row = sequence * params.seq + min(key + lane % 8u, last);
        let b_row = sequence * params.seq + min(key + 8u + lane % 8u, last);
        let a_at = (a_row * params.kv_heads + kv_head) * params.width;
        let b_at = (b_row * params.kv_heads + kv_head) * params.width;
        for (var t = 0u; t < params.width; t++) {
            multiply(&s, queries(q_at, t), wide(k[a_at + t]), wide(k[b_at + t]));
        }
        s.s0 = mask(s.s0, query, key + 0u);
        s.s1 = mask(s.s1, query, key + 1u);
        s.s2 = mask(s.s2, query, key + 2u);
        s.s3 = mask(s.s3, query, key + 3u);
        s.s4 = mask(s.s4, query, key + 4u);
        s.s5 = mask(s.s5, query, key + 5u);
        s.s6 = mask(s.s6, query, key + 6u);
        s.s7 = mask(s.s7, query, key + 7u);
        s.s8 = mask(s.s8, query, key + 8u);
        s.s9 = mask(s.s9, query, key + 9u);
        s.s10 = mask(s.s10, query, key + 10u);
        s.s11 = mask(s.s11, query, key + 11u);
        s.s12 = mask(s.s12, query, key + 12u);
        s.s13 = mask(s.s13, query, key + 13u);
        s.s14 = mask(s.s14, query, key + 14u);
        s.s15 = mask(s.s15, query, key + 15u);
        var higher = top;
        higher = max(higher, s.s0);
        higher = max(higher, s.s1);
        higher = max(higher, s.s2);
        higher = max(higher, s.s3);
        higher = max(higher, s.s4);
        higher = max(higher, s.s5);
        higher = max(higher, s.s6);
        higher = max(higher, s.s7);
        higher = max(higher, s.s8);
        higher = max(higher, s.s9);
        higher = max(higher, s.s10);
        higher = max(higher, s.s11);
        higher = max(higher, s.s12);
        higher = max(higher, s.s13);
        higher = max(higher, s.s14);
        higher = max(higher, s.s15);
        let shrink = exp2(top - higher);
        top = higher;
        s.s0 = exp2(s.s0 - top);
        s.s1 = exp2(s.s1 - top);
        s.s2 = exp2(s.s2 - top);
        s.s3 = exp2(s.s3 - top);
        s.s4 = exp2(s.s4 - top);
        s.s5 = exp2(s.s5 - top);
        s.s6 = exp2(s.s6 - top);
        s.s7 = exp2(s.s7 - top);
        s.s8 = exp2(s.s8 - top);
        s.s9 = exp2(s.s9 - top);
        s.s10 = exp2(s.s10 - top);
        s.s11 = exp2(s.s11 - top);
        s.s12 = exp2(s.s12 - top);
        s.s13 = exp2(s.s13 - top);
        s.s14 = exp2(s.s14 - top);
        s.s15 = exp2(s.s15 - top);
        sum = sum * shrink + (((s.s0 + s.s1) + (s.s2 + s.s3)) + ((s.s4 + s.s5) + (s.s6 + s.s7)))
            + (((s.s8 + s.s9) + (s.s10 + s.s11)) + ((s.s12 + s.s13) + (s.s14 + s.s15)));
        o.o0 = scale_columns(o.o0, shrink);
        o.o1 = scale_columns(o.o1, shrink);
        o.o2 = scale_columns(o.o2, shrink);
        o.o3 = scale_columns(o.o3, shrink);
        o.o4 = scale_columns(o.o4, shrink);
        o.o5 = scale_columns(o.o5, shrink);
        o.o6 = scale_columns(o.o6, shrink);
        o.o7 = scale_columns(o.o7, shrink);
        let v_at = kv_head * params.width + column;
        let v_step = params.kv_heads * params.width;
        let v_row = sequence * params.seq + key;
        let v_last = sequence * params.seq + last;
        if COMPACT {
            for (var i = 0u; i < PASSING; i++) {
                accumulate(&o, passing_row(s, i), wide(v[min(v_row + i, v_last) * v_step + v_at]));
            }
        } else {
            accumulate(&o, s.s0, wide(v[min(v_row + 0u, v_last) * v_step + v_at]));
            accumulate(&o, s.s1, wide(v[min(v_row + 1u, v_last) * v_step + v_at]));
            accumulate(&o, s.s2, wide(v[min(v_row + 2u, v_last) * v_step + v_at]));
            accumulate(&o, s.s3, wide(v[min(v_row + 3u, v_last) * v_step + v_at]));
            accumulate(&o, s.s4, wide(v[min(v_row + 4u, v_last) * v_step + v_at]));
            accumulate(&o, s.s5, wide(v[min(v_row + 5u, v_last) * v_step + v_at]));
            accumulate(&o, s.s6, wide(v[min(v_row + 6u, v_last) * v_step + v_at]));
            accumulate(&o, s.s7, wide(v[min(v_row + 7u, v_last) * v_step + v_at]));
            accumulate(&o, s.s8, wide(v[min(v_row + 8u, v_last) * v_step + v_at]));
            accumulate(&o, s.s9, wide(v[min(v_row + 9u, v_last) * v_step + v_at]));
            accumulate(&o, s.s10, wide(v[min(v_row + 10u, v_last) * v_step + v_at]));
            accumulate(&o, s.s11, wide(v[min(v_row + 11u, v_last) * v_step + v_at]));
            accumulate(&o, s.s12, wide(v[min(v_row + 12u, v_last) * v_step + v_at]));
            accumulate(&o, s.s13, wide(v[min(v_row + 13u, v_last) * v_step + v_at]));
            accumulate(&o, s.s14, wide(v[min(v_row + 14u, v_last) * v_step + v_at]));
            accumulate(&o, s.s15, wide(v[min(v_row + 15u, v_last) * v_step + v_at]));
        }
    }
    let valid = query <= vec4(last);
    let inverse = 1.0 / sum;
    if COMPACT {
        for (var i = 0u; i < BLOCK; i++) {
            store(q_at, valid, block * BLOCK + i, scale_columns(lane_columns(o, i), inverse));
        }
    } else {
        store(q_at, valid, block * BLOCK + 0u, scale_columns(o.o0, inverse));
        store(q_at, valid, block * BLOCK + 1u, scale_columns(o.o1, inverse));
        store(q_at, valid, block * BLOCK + 2u, scale_columns(o.o2, inverse));
        store(q_at, valid, block * BLOCK + 3u, scale_columns(o.o3, inverse));
        store(q_at, valid, block * BLOCK + 4u, scale_columns(o.o4, inverse));
        store(q_at, valid, block * BLOCK + 5u, scale_columns(o.o5, inverse));
        store(q_at, valid, block * BLOCK + 6u, scale_columns(o.o6, inverse));
        store(q_at, valid, block * BLOCK + 7u, scale_columns(o.o7, inverse));
    }
    if block == 0u {
        let total = top + log2(sum);
        if valid.x { lse[row.x * params.heads + head] = total.x; }
        if valid.y { lse[row.y * params.heads + head] = total.y; }
        if valid.z { lse[row.z * params.heads + head] = total.z; }
        if valid.w { lse[row.w * params.heads + head] = total.w; }
    }
}
