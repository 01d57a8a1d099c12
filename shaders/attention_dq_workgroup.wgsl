// Causal attention's gradient in the queries: dq (out_a) = scale dS k.
//
// needs: lib/attention_workgroup.wgsl

@compute @workgroup_size(WG)
fn attention_dq_workgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                          @builtin(local_invocation_index) lane: u32) {
    let at = place(group, groups, params.heads, params.width);
    if at.tile >= at.tiles {
        return;
    }
    let own = lane % SIDE;
    let other = lane / SIDE;
    // The tiles with the most keys first: the short ones fill the gaps at the end.
    let first = (at.tiles - 1u - at.tile) * ROWS;
    let kv_head = at.head / (params.heads / params.kv_heads);
    let query = positions(first + 4u * own);
    let rows = rows_of(at.sequence, first + 4u * own, params.heads, at.head);
    let own_lse = vec4(lse[rows.x], lse[rows.y], lse[rows.z], lse[rows.w]);
    let own_delta = vec4(delta[rows.x], delta[rows.y], delta[rows.z], delta[rows.w]);

    var o = Panels();
    var more = Panels();
    for (var key = first_key(first, ROWS); key < min(first + ROWS, params.seq); key += ROWS) {
        let key_rows = rows_of(at.sequence, key + 4u * own, params.kv_heads, kv_head);
        let s = query_key(rows, key_rows, OWN, PASSING, own, other);
        let dp = dy_value(rows, key_rows, OWN, PASSING, own, other);
        var ds = mat4x4(probability(s[0], own_lse) * (dp[0] - own_delta), probability(s[1], own_lse) * (dp[1] - own_delta),
                        probability(s[2], own_lse) * (dp[2] - own_delta), probability(s[3], own_lse) * (dp[3] - own_delta));
        // Only the last tile has keys after a query of its own.
        if key == first {
            ds = causal(ds, 0.0, key + 4u * other, query);
        }
        if WINDOWED && key + params.window < first + ROWS {
            ds = windowed(ds, 0.0, key + 4u * other, query);
        }
        let panel_rows = rows_of(at.sequence, key + 4u * other, params.kv_heads, kv_head);
        let near = quads_k(panel_rows, at.column + own);
        var far = mat4x4<f32>();
        if PANELS > 1u {
            far = quads_k(panel_rows, at.column + SIDE + own);
        }
        workgroupBarrier();
        put(FACTORS, other, own, ds);
        put_panels(Panels(near, far), own, other);
        workgroupBarrier();
        o = add_panels(o, own, other);
        if PANELS > 2u {
            let near = quads_k(panel_rows, at.column + 2u * SIDE + own);
            let far = quads_k(panel_rows, at.column + 3u * SIDE + own);
            workgroupBarrier();
            put_panels(Panels(near, far), own, other);
            workgroupBarrier();
            more = add_panels(more, own, other);
        }
    }
    let valid = query < vec4(params.seq);
    let quad = at.column + other;
    store_quads(rows, valid, params.width, quad, o.near * params.scale_out);
    if PANELS > 1u {
        store_quads(rows, valid, params.width, quad + SIDE, o.far * params.scale_out);
    }
    if PANELS > 2u {
        store_quads(rows, valid, params.width, quad + 2u * SIDE, more.near * params.scale_out);
        store_quads(rows, valid, params.width, quad + 3u * SIDE, more.far * params.scale_out);
    }
}
