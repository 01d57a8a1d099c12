// Causal attention, gradients in keys and values: dv_j = sum over queries i of p_ij dy_i and
// dk_j = sum over queries i of scale p_ij (dp_ij - delta_i) q_i, over query heads of the key's head.
// A lane owns 4 keys, queries pass.
//
// needs: lib/grid.wgsl, software/attention_tile.wgsl

@group(0) @binding(4) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> dk: array<StoredPack>;
@group(0) @binding(8) var<storage, read_write> dv: array<StoredPack>;

fn keys(at: vec4<u32>, t: u32) -> mat4x4<f32> {
    return transpose(mat4x4(wide(k[at.x + t]), wide(k[at.y + t]), wide(k[at.z + t]), wide(k[at.w + t])));
}

fn values(at: vec4<u32>, t: u32) -> mat4x4<f32> {
    return transpose(mat4x4(wide(v[at.x + t]), wide(v[at.y + t]), wide(v[at.z + t]), wide(v[at.w + t])));
}

// p is at most 1, and 0 where the query does not see the key or there is no such query.
fn probability(score: vec4<f32>, query_lse: f32, key: vec4<u32>, query: u32) -> vec4<f32> {
    let p = exp2(min(score * params.scale - query_lse, vec4(0.0)));
    return select(vec4(0.0), p, sees(vec4(query), key) & vec4(query < params.seq));
}

fn put(at: u32, row_k: vec4<f32>, row_v: vec4<f32>) {
    var sum_k = params.scale_out * row_k;
    var sum_v = row_v;
    if params.beta != 0.0 {
        sum_k += params.beta * wide(dk[at]);
        sum_v += params.beta * wide(dv[at]);
    }
    dk[at] = narrow(sum_k);
    dv[at] = narrow(sum_v);
}

fn store(at: vec4<u32>, valid: vec4<bool>, column: u32, o_k: mat4x4<f32>, o_v: mat4x4<f32>) {
    if column < params.width {
        let rows_k = transpose(o_k);
        let rows_v = transpose(o_v);
        if valid.x { put(at.x + column, rows_k[0], rows_v[0]); }
        if valid.y { put(at.y + column, rows_k[1], rows_v[1]); }
        if valid.z { put(at.z + column, rows_k[2], rows_v[2]); }
        if valid.w { put(at.w + column, rows_k[3], rows_v[3]); }
    }
}

@compute @workgroup_size(SG)
fn attention_dkv_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                          @builtin(subgroup_invocation_id) lane: u32) {
    let own = 4u * SG;
    let place = place(group, groups, params.kv_heads);
    let first = place.first;
    let block = place.block;
    let kv_head = place.head;
    let sequence = place.sequence;
    if sequence >= params.sequences {
        return;
    }
    let last = params.seq - 1u;
    let key = vec4(first + 4u * lane) + vec4(0u, 1u, 2u, 3u);
    let at = ((sequence * params.seq + min(key, vec4(last))) * params.kv_heads + kv_head) * params.width;
    let column = min(block * BLOCK + lane % BLOCK, params.width - 1u);
    let share = params.heads / params.kv_heads;

    var o_k = Columns();
    var o_v = Columns();
    for (var head = kv_head * share + params.share_first; head < kv_head * share + params.share_last; head++) {
        // own is a multiple of PASSING, so the tile of the first own key is the first with a query that sees it.
        for (var query = first; query < end_of_queries(first, own); query += PASSING) {
            var s = Tile();
            var dp = Tile();
            let a = (sequence * params.seq + min(query + lane % 8u, last)) * params.heads + head;
            let b = (sequence * params.seq + min(query + 8u + lane % 8u, last)) * params.heads + head;
            for (var t = 0u; t < params.width; t++) {
                multiply(&s, keys(at, t), wide(q[a * params.width + t]), wide(q[b * params.width + t]));
                multiply(&dp, values(at, t), wide(dy[a * params.width + t]), wide(dy[b * params.width + t]));
            }
            let lse_a = lse[a];
            let lse_b = lse[b];
            let delta_a = delta[a];
            let delta_b = delta[b];
            s.s0 = probability(s.s0, subgroupBroadcast(lse_a, 0u), key, query + 0u);
            s.s1 = probability(s.s1, subgroupBroadcast(lse_a, 1u), key, query + 1u);
            s.s2 = probability(s.s2, subgroupBroadcast(lse_a, 2u), key, query + 2u);
            s.s3 = probability(s.s3, subgroupBroadcast(lse_a, 3u), key, query + 3u);
            s.s4 = probability(s.s4, subgroupBroadcast(lse_a, 4u), key, query + 4u);
            s.s5 = probability(s.s5, subgroupBroadcast(lse_a, 5u), key, query + 5u);
            s.s6 = probability(s.s6, subgroupBroadcast(lse_a, 6u), key, query + 6u);
            s.s7 = probability(s.s7, subgroupBroadcast(lse_a, 7u), key, query + 7u);
            s.s8 = probability(s.s8, subgroupBroadcast(lse_b, 0u), key, query + 8u);
            s.s9 = probability(s.s9, subgroupBroadcast(lse_b, 1u), key, query + 9u);
            s.s10 = probability(s.s10, subgroupBroadcast(lse_b, 2u), key, query + 10u);
            s.s11 = probability(s.s11, subgroupBroadcast(lse_b, 3u), key, query + 11u);
            s.s12 = probability(s.s12, subgroupBroadcast(lse_b, 4u), key, query + 12u);
            s.s13 = probability(s.s13, subgroupBroadcast(lse_b, 5u), key, query + 13u);
            s.s14 = probability(s.s14, subgroupBroadcast(lse_b, 6u), key, query + 14u);
            s.s15 = probability(s.s15, subgroupBroadcast(lse_b, 7u), key, query + 15u);
            dp.s0 = s.s0 * (dp.s0 - subgroupBroadcast(delta_a, 0u));
            dp.s1 = s.s1 * (dp.s1 - subgroupBroadcast(delta_a, 1u));
            dp.s2 = s.s2 * (dp.s2 - subgroupBroadcast(delta_a, 2u));
            dp.s3 = s.s3 * (dp.s3 - subgroupBroadcast(delta_a, 3u));
            dp.s4 = s.s4 * (dp.s4 - subgroupBroadcast(delta_a, 4u));
            dp.s5 = s.s5 * (dp.s5 - subgroupBroadcast(delta_a, 5u));
            dp.s6 = s.s6 * (dp.s6 - subgroupBroadcast(delta_a, 6u));
            dp.s7 = s.s7 * (dp.s7 - subgroupBroadcast(delta_a, 7u));
            dp.s8 = s.s8 * (dp.s8 - subgroupBroadcast(delta_b, 0u));
            dp.s9 = s.s9 * (dp.s9 - subgroupBroadcast(delta_b, 1u));
            dp.s10 = s.s10 * (dp.s10 - subgroupBroadcast(delta_b, 2u));
            dp.s11 = s.s11 * (dp.s11 - subgroupBroadcast(delta_b, 3u));
            dp.s12 = s.s12 * (dp.s12 - subgroupBroadcast(delta_b, 4u));
            dp.s13 = s.s13 * (dp.s13 - subgroupBroadcast(delta_b, 5u));
            dp.s14 = s.s14 * (dp.s14 - subgroupBroadcast(delta_b, 6u));
            dp.s15 = s.s15 * (dp.s15 - subgroupBroadcast(delta_b, 7u));
            let row_at = head * params.width + column;
            let row_step = params.heads * params.width;
            let row = sequence * params.seq + query;
            let row_last = sequence * params.seq + last;
            if COMPACT {
                for (var i = 0u; i < PASSING; i++) {
                    let at_row = min(row + i, row_last) * row_step + row_at;
                    accumulate(&o_k, passing_row(dp, i), wide(q[at_row]));
                    accumulate(&o_v, passing_row(s, i), wide(dy[at_row]));
                }
            } else {
                accumulate(&o_k, dp.s0, wide(q[min(row + 0u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s1, wide(q[min(row + 1u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s2, wide(q[min(row + 2u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s3, wide(q[min(row + 3u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s4, wide(q[min(row + 4u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s5, wide(q[min(row + 5u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s6, wide(q[min(row + 6u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s7, wide(q[min(row + 7u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s8, wide(q[min(row + 8u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s9, wide(q[min(row + 9u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s10, wide(q[min(row + 10u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s11, wide(q[min(row + 11u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s12, wide(q[min(row + 12u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s13, wide(q[min(row + 13u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s14, wide(q[min(row + 14u, row_last) * row_step + row_at]));
                accumulate(&o_k, dp.s15, wide(q[min(row + 15u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s0, wide(dy[min(row + 0u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s1, wide(dy[min(row + 1u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s2, wide(dy[min(row + 2u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s3, wide(dy[min(row + 3u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s4, wide(dy[min(row + 4u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s5, wide(dy[min(row + 5u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s6, wide(dy[min(row + 6u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s7, wide(dy[min(row + 7u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s8, wide(dy[min(row + 8u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s9, wide(dy[min(row + 9u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s10, wide(dy[min(row + 10u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s11, wide(dy[min(row + 11u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s12, wide(dy[min(row + 12u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s13, wide(dy[min(row + 13u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s14, wide(dy[min(row + 14u, row_last) * row_step + row_at]));
                accumulate(&o_v, s.s15, wide(dy[min(row + 15u, row_last) * row_step + row_at]));
            }
        }
    }
    let valid = key <= vec4(last);
    if COMPACT {
        for (var i = 0u; i < BLOCK; i++) {
            store(at, valid, block * BLOCK + i, lane_columns(o_k, i), lane_columns(o_v, i));
        }
    } else {
        store(at, valid, block * BLOCK + 0u, o_k.o0, o_v.o0);
        store(at, valid, block * BLOCK + 1u, o_k.o1, o_v.o1);
        store(at, valid, block * BLOCK + 2u, o_k.o2, o_v.o2);
        store(at, valid, block * BLOCK + 3u, o_k.o3, o_v.o3);
        store(at, valid, block * BLOCK + 4u, o_k.o4, o_v.o4);
        store(at, valid, block * BLOCK + 5u, o_k.o5, o_v.o5);
        store(at, valid, block * BLOCK + 6u, o_k.o6, o_v.o6);
        store(at, valid, block * BLOCK + 7u, o_k.o7, o_v.o7);
    }
}
