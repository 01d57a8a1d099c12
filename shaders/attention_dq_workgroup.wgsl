// Causal attention's gradient in the queries: dq (out_a) = dS k / sqrt(head_dim). Needs lib/attention_workgroup.wgsl with what
// that needs.

fn store(rows: vec4<u32>, valid: vec4<bool>, quad: u32, x: mat4x4<f32>) {
    let dq = transpose(x * params.scale_out);
    if valid.x { store_a(rows.x, params.width, quad, dq[0]); }
    if valid.y { store_a(rows.y, params.width, quad, dq[1]); }
    if valid.z { store_a(rows.z, params.width, quad, dq[2]); }
    if valid.w { store_a(rows.w, params.width, quad, dq[3]); }
}

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
    for (var key = 0u; key < min(first + ROWS, params.seq); key += ROWS) {
        let key_rows = rows_of(at.sequence, key + 4u * own, params.kv_heads, kv_head);
        let s = query_key(rows, key_rows, OWN, PASSING, own, other);
        let dp = dy_value(rows, key_rows, OWN, PASSING, own, other);
        var ds = mat4x4(probability(s[0], own_lse) * (dp[0] - own_delta), probability(s[1], own_lse) * (dp[1] - own_delta),
                        probability(s[2], own_lse) * (dp[2] - own_delta), probability(s[3], own_lse) * (dp[3] - own_delta));
        // Only the last tile has keys after a query of its own.
        if key == first {
            let seen = key + 4u * other;
            ds[0] = select(vec4(0.0), ds[0], vec4(seen) <= query);
            ds[1] = select(vec4(0.0), ds[1], vec4(seen + 1u) <= query);
            ds[2] = select(vec4(0.0), ds[2], vec4(seen + 2u) <= query);
            ds[3] = select(vec4(0.0), ds[3], vec4(seen + 3u) <= query);
        }
        let panel_rows = rows_of(at.sequence, key + 4u * other, params.kv_heads, kv_head);
        let near = quads_k(panel_rows, at.column + own);
        var far = mat4x4<f32>();
        if PANELS > 1u {
            far = quads_k(panel_rows, at.column + SIDE + own);
        }
        workgroupBarrier();
        put(FACTORS, other, own, ds);
        put(OWN, other, own, near);
        if PANELS > 1u {
            put(PASSING, other, own, far);
        }
        workgroupBarrier();
        o = add_panels(o, own, other);
        if PANELS > 2u {
            let near = quads_k(panel_rows, at.column + 2u * SIDE + own);
            let far = quads_k(panel_rows, at.column + 3u * SIDE + own);
            workgroupBarrier();
            put(OWN, other, own, near);
            put(PASSING, other, own, far);
            workgroupBarrier();
            more = add_panels(more, own, other);
        }
    }
    let valid = query < vec4(params.seq);
    let quad = at.column + other;
    store(rows, valid, quad, o.near);
    if PANELS > 1u {
        store(rows, valid, quad + SIDE, o.far);
    }
    if PANELS > 2u {
        store(rows, valid, quad + 2u * SIDE, more.near);
        store(rows, valid, quad + 3u * SIDE, more.far);
    }
}
