// Causal attention, gradient in the queries: dq = sum over keys j of scale p_j (dp_j - delta) k_j, with
// p_j = 2^(score - lse) made anew and dp_j = dy . v_j. A lane owns 4 queries.
//
// needs: lib/grid.wgsl, software/attention_tile.wgsl

@group(0) @binding(4) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dq: array<StoredPack>;

fn gradients(at: vec4<u32>, t: u32) -> mat4x4<f32> {
    return transpose(mat4x4(wide(dy[at.x + t]), wide(dy[at.y + t]), wide(dy[at.z + t]), wide(dy[at.w + t])));
}

// p (dp - delta); p is at most 1, and 0 where the query does not see the key.
fn dscore(score: vec4<f32>, dp: vec4<f32>, own_lse: vec4<f32>, own_delta: vec4<f32>, query: vec4<u32>, key: u32)
    -> vec4<f32> {
    let p = exp2(min(score * params.scale - own_lse, vec4(0.0)));
    return select(vec4(0.0), p * (dp - own_delta), sees(query, vec4(key)));
}

fn add(at: u32, value: vec4<f32>) {
    var sum = value * params.scale_out;
    if params.beta != 0.0 {
        sum += params.beta * wide(dq[at]);
    }
    dq[at] = narrow(sum);
}

fn store(at: vec4<u32>, valid: vec4<bool>, column: u32, o: mat4x4<f32>) {
    if column < params.width {
        let rows = transpose(o);
        if valid.x { add(at.x + column, rows[0]); }
        if valid.y { add(at.y + column, rows[1]); }
        if valid.z { add(at.z + column, rows[2]); }
        if valid.w { add(at.w + column, rows[3]); }
    }
}

@compute @workgroup_size(SG)
fn attention_dq_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
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
    let at = (sequence * params.seq + min(query, vec4(last))) * params.heads + head;
    let q_at = at * params.width;
    let own_lse = vec4(lse[at.x], lse[at.y], lse[at.z], lse[at.w]);
    let own_delta = vec4(delta[at.x], delta[at.y], delta[at.z], delta[at.w]);
    let kv_head = head / (params.heads / params.kv_heads);
    let column = min(block * BLOCK + lane % BLOCK, params.width - 1u);

    var o = Columns();
    for (var key = first_key(first, PASSING); key <= min(first + own - 1u, last); key += PASSING) {
        var s = Tile();
        var dp = Tile();
        let a_row = sequence * params.seq + min(key + lane % 8u, last);
        let b_row = sequence * params.seq + min(key + 8u + lane % 8u, last);
        let a_at = (a_row * params.kv_heads + kv_head) * params.width;
        let b_at = (b_row * params.kv_heads + kv_head) * params.width;
        for (var t = 0u; t < params.width; t++) {
            multiply(&s, queries(q_at, t), wide(k[a_at + t]), wide(k[b_at + t]));
            multiply(&dp, gradients(q_at, t), wide(v[a_at + t]), wide(v[b_at + t]));
        }
        s.s0 = dscore(s.s0, dp.s0, own_lse, own_delta, query, key + 0u);
        s.s1 = dscore(s.s1, dp.s1, own_lse, own_delta, query, key + 1u);
        s.s2 = dscore(s.s2, dp.s2, own_lse, own_delta, query, key + 2u);
        s.s3 = dscore(s.s3, dp.s3, own_lse, own_delta, query, key + 3u);
        s.s4 = dscore(s.s4, dp.s4, own_lse, own_delta, query, key + 4u);
        s.s5 = dscore(s.s5, dp.s5, own_lse, own_delta, query, key + 5u);
        s.s6 = dscore(s.s6, dp.s6, own_lse, own_delta, query, key + 6u);
        s.s7 = dscore(s.s7, dp.s7, own_lse, own_delta, query, key + 7u);
        s.s8 = dscore(s.s8, dp.s8, own_lse, own_delta, query, key + 8u);
        s.s9 = dscore(s.s9, dp.s9, own_lse, own_delta, query, key + 9u);
        s.s10 = dscore(s.s10, dp.s10, own_lse, own_delta, query, key + 10u);
        s.s11 = dscore(s.s11, dp.s11, own_lse, own_delta, query, key + 11u);
        s.s12 = dscore(s.s12, dp.s12, own_lse, own_delta, query, key + 12u);
        s.s13 = dscore(s.s13, dp.s13, own_lse, own_delta, query, key + 13u);
        s.s14 = dscore(s.s14, dp.s14, own_lse, own_delta, query, key + 14u);
        s.s15 = dscore(s.s15, dp.s15, own_lse, own_delta, query, key + 15u);
        let k_at = kv_head * params.width + column;
        let k_step = params.kv_heads * params.width;
        let k_row = sequence * params.seq + key;
        let k_last = sequence * params.seq + last;
        if COMPACT {
            for (var i = 0u; i < PASSING; i++) {
                accumulate(&o, passing_row(s, i), wide(k[min(k_row + i, k_last) * k_step + k_at]));
            }
        } else {
            accumulate(&o, s.s0, wide(k[min(k_row + 0u, k_last) * k_step + k_at]));
            accumulate(&o, s.s1, wide(k[min(k_row + 1u, k_last) * k_step + k_at]));
            accumulate(&o, s.s2, wide(k[min(k_row + 2u, k_last) * k_step + k_at]));
            accumulate(&o, s.s3, wide(k[min(k_row + 3u, k_last) * k_step + k_at]));
            accumulate(&o, s.s4, wide(k[min(k_row + 4u, k_last) * k_step + k_at]));
            accumulate(&o, s.s5, wide(k[min(k_row + 5u, k_last) * k_step + k_at]));
            accumulate(&o, s.s6, wide(k[min(k_row + 6u, k_last) * k_step + k_at]));
            accumulate(&o, s.s7, wide(k[min(k_row + 7u, k_last) * k_step + k_at]));
            accumulate(&o, s.s8, wide(k[min(k_row + 8u, k_last) * k_step + k_at]));
            accumulate(&o, s.s9, wide(k[min(k_row + 9u, k_last) * k_step + k_at]));
            accumulate(&o, s.s10, wide(k[min(k_row + 10u, k_last) * k_step + k_at]));
            accumulate(&o, s.s11, wide(k[min(k_row + 11u, k_last) * k_step + k_at]));
            accumulate(&o, s.s12, wide(k[min(k_row + 12u, k_last) * k_step + k_at]));
            accumulate(&o, s.s13, wide(k[min(k_row + 13u, k_last) * k_step + k_at]));
            accumulate(&o, s.s14, wide(k[min(k_row + 14u, k_last) * k_step + k_at]));
            accumulate(&o, s.s15, wide(k[min(k_row + 15u, k_last) * k_step + k_at]));
        }
    }
    let valid = query <= vec4(last);
    if COMPACT {
        for (var i = 0u; i < BLOCK; i++) {
            store(q_at, valid, block * BLOCK + i, lane_columns(o, i));
        }
    } else {
        store(q_at, valid, block * BLOCK + 0u, o.o0);
        store(q_at, valid, block * BLOCK + 1u, o.o1);
        store(q_at, valid, block * BLOCK + 2u, o.o2);
        store(q_at, valid, block * BLOCK + 3u, o.o3);
        store(q_at, valid, block * BLOCK + 4u, o.o4);
        store(q_at, valid, block * BLOCK + 5u, o.o5);
        store(q_at, valid, block * BLOCK + 6u, o.o6);
        store(q_at, valid, block * BLOCK + 7u, o.o7);
    }
}
