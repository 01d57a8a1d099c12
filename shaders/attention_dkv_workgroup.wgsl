// Causal attention's gradients in keys and values: dk (out_a) = scale dS^T q, dv (out_b) = P^T dy, summed over query
// heads that share a key's head.
//
// needs: lib/attention_workgroup.wgsl

fn store_dv(rows: vec4<u32>, valid: vec4<bool>, quad: u32, x: mat4x4<f32>) {
    let dv = transpose(x);
    if valid.x { store_b(rows.x, params.value_width, quad, dv[0]); }
    if valid.y { store_b(rows.y, params.value_width, quad, dv[1]); }
    if valid.z { store_b(rows.z, params.value_width, quad, dv[2]); }
    if valid.w { store_b(rows.w, params.value_width, quad, dv[3]); }
}

@compute @workgroup_size(WG)
fn attention_dkv_workgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                           @builtin(local_invocation_index) lane: u32) {
    // Both outputs have their columns in the same blocks.
    let at = place(group, groups, params.kv_heads, max(params.width, params.value_width));
    if at.tile >= at.tiles {
        return;
    }
    let own = lane % SIDE;
    let other = lane / SIDE;
    // The first keys are seen by the most queries.
    let first = at.tile * ROWS;
    let key = positions(first + 4u * own);
    let rows = rows_of(at.sequence, first + 4u * own, params.kv_heads, at.head);
    let share = params.heads / params.kv_heads;

    var dk = Panels();
    var dv = Panels();
    for (var head = at.head * share + params.share_first; head < at.head * share + params.share_last; head++) {
        // Tiles of queries and keys begin at the same positions: that of the first own key has the first query that sees it.
        for (var query = first; query < end_of_queries(first, ROWS); query += ROWS) {
            let query_rows = rows_of(at.sequence, query + 4u * own, params.heads, head);
            let s = query_key(query_rows, rows, PASSING, OWN, own, other);
            let dp = dy_value(query_rows, rows, PASSING, OWN, own, other);
            // The queries of the thread's products, whose columns it also loads.
            let passing = query + 4u * other;
            let panel_rows = rows_of(at.sequence, passing, params.heads, head);
            var p = mat4x4(probability(s[0], vec4(lse[panel_rows.x])), probability(s[1], vec4(lse[panel_rows.y])),
                           probability(s[2], vec4(lse[panel_rows.z])), probability(s[3], vec4(lse[panel_rows.w])));
            if query == first || query + ROWS > params.seq {
                let last = vec4(params.seq - 1u);
                p[0] = select(vec4(0.0), p[0], (key <= vec4(passing)) & (vec4(passing) <= last));
                p[1] = select(vec4(0.0), p[1], (key <= vec4(passing + 1u)) & (vec4(passing + 1u) <= last));
                p[2] = select(vec4(0.0), p[2], (key <= vec4(passing + 2u)) & (vec4(passing + 2u) <= last));
                p[3] = select(vec4(0.0), p[3], (key <= vec4(passing + 3u)) & (vec4(passing + 3u) <= last));
            }
            if WINDOWED && first + params.window < query + ROWS {
                let end = key + vec4(params.window);
                p[0] = select(vec4(0.0), p[0], vec4(passing) < end);
                p[1] = select(vec4(0.0), p[1], vec4(passing + 1u) < end);
                p[2] = select(vec4(0.0), p[2], vec4(passing + 2u) < end);
                p[3] = select(vec4(0.0), p[3], vec4(passing + 3u) < end);
            }
            let ds = mat4x4(p[0] * (dp[0] - delta[panel_rows.x]), p[1] * (dp[1] - delta[panel_rows.y]),
                            p[2] * (dp[2] - delta[panel_rows.z]), p[3] * (dp[3] - delta[panel_rows.w]));
            let near_dy = quads_dy(panel_rows, at.column + own);
            var far_dy = mat4x4<f32>();
            if PANELS > 1u {
                far_dy = quads_dy(panel_rows, at.column + SIDE + own);
            }
            workgroupBarrier();
            put(FACTORS, other, own, p);
            put_panels(Panels(near_dy, far_dy), own, other);
            workgroupBarrier();
            dv = add_panels(dv, own, other);
            let near_q = quads_q(panel_rows, at.column + own);
            var far_q = mat4x4<f32>();
            if PANELS > 1u {
                far_q = quads_q(panel_rows, at.column + SIDE + own);
            }
            workgroupBarrier();
            put(FACTORS, other, own, ds);
            put_panels(Panels(near_q, far_q), own, other);
            workgroupBarrier();
            dk = add_panels(dk, own, other);
        }
    }
    let valid = key < vec4(params.seq);
    let quad = at.column + other;
    store_quads(rows, valid, params.width, quad, dk.near * params.scale_out);
    store_dv(rows, valid, quad, dv.near);
    if PANELS > 1u {
        store_quads(rows, valid, params.width, quad + SIDE, dk.far * params.scale_out);
        store_dv(rows, valid, quad + SIDE, dv.far);
    }
}
