// Causal attention, forward: y (out_a) = softmax(scale q k^T) v by head, one pass over the keys with a running
// maximum.
//
// needs: lib/attention_workgroup.wgsl

// log2 of the sum of 2^score, by row and head
@group(0) @binding(9) var<storage, read_write> lse_out: array<f32>;

// A score that stands for minus infinity.
const NEVER: f32 = -1e30;

// The largest `x` of the 8 threads with the same own rows.
fn shared_max(x: vec4<f32>, own: u32, other: u32) -> vec4<f32> {
    sides[other][own] = x;
    workgroupBarrier();
    return max(max(max(sides[0][own], sides[1][own]), max(sides[2][own], sides[3][own])),
               max(max(sides[4][own], sides[5][own]), max(sides[6][own], sides[7][own])));
}

// Their sum.
fn shared_sum(x: vec4<f32>, own: u32, other: u32) -> vec4<f32> {
    sides[other][own] = x;
    workgroupBarrier();
    return ((sides[0][own] + sides[1][own]) + (sides[2][own] + sides[3][own]))
        + ((sides[4][own] + sides[5][own]) + (sides[6][own] + sides[7][own]));
}

@compute @workgroup_size(WG)
fn attention_workgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32) {
    let at = place(group, groups, params.heads, params.value_width);
    if at.tile >= at.tiles {
        return;
    }
    let own = lane % SIDE;
    let other = lane / SIDE;
    // The tiles with the most keys first: the short ones fill the gaps at the end.
    let first = (at.tiles - 1u - at.tile) * ROWS;
    let kv_head = at.head / (params.heads / params.kv_heads);
    let query = positions(first + 4u * own);
    let query_rows = rows_of(at.sequence, first + 4u * own, params.heads, at.head);

    var o = Panels();
    var more = Panels();
    var top = vec4(NEVER);
    // Of the thread's own keys.
    var total = vec4(0.0);
    for (var key = first_key(first, ROWS); key < min(first + ROWS, params.seq); key += ROWS) {
        let key_rows = rows_of(at.sequence, key + 4u * own, params.kv_heads, kv_head);
        var s = query_key(query_rows, key_rows, OWN, PASSING, own, other) * params.scale;
        // Only the last tile has keys after a query of its own.
        if key == first {
            s = causal(s, NEVER, key + 4u * other, query);
        }
        // Of a query that sees no key of a tile the sums are nonsense, which the first key that it sees multiplies by 0.
        if WINDOWED && key + params.window < first + ROWS {
            s = windowed(s, NEVER, key + 4u * other, query);
        }
        let value_rows = rows_of(at.sequence, key + 4u * other, params.kv_heads, kv_head);
        let near = quads_v(value_rows, at.column + own);
        var far = mat4x4<f32>();
        if PANELS > 1u {
            far = quads_v(value_rows, at.column + SIDE + own);
        }
        let higher = max(top, shared_max(max(max(s[0], s[1]), max(s[2], s[3])), own, other));
        let shrink = exp2(top - higher);
        top = higher;
        let p = mat4x4(exp2(s[0] - top), exp2(s[1] - top), exp2(s[2] - top), exp2(s[3] - top));
        total = total * shrink + ((p[0] + p[1]) + (p[2] + p[3]));
        // All threads are through with the scores' operands since they shared the maximum.
        put(FACTORS, other, own, p);
        put_panels(Panels(near, far), own, other);
        workgroupBarrier();
        o = add_panels(Panels(times(o.near, shrink), times(o.far, shrink)), own, other);
        if PANELS > 2u {
            let near = quads_v(value_rows, at.column + 2u * SIDE + own);
            let far = quads_v(value_rows, at.column + 3u * SIDE + own);
            workgroupBarrier();
            put_panels(Panels(near, far), own, other);
            workgroupBarrier();
            more = add_panels(Panels(times(more.near, shrink), times(more.far, shrink)), own, other);
        }
    }
    total = shared_sum(total, own, other);
    let inverse = 1.0 / total;
    let valid = query < vec4(params.seq);
    let quad = at.column + other;
    store_quads(query_rows, valid, params.value_width, quad, times(o.near, inverse));
    if PANELS > 1u {
        store_quads(query_rows, valid, params.value_width, quad + SIDE, times(o.far, inverse));
    }
    if PANELS > 2u {
        store_quads(query_rows, valid, params.value_width, quad + 2u * SIDE, times(more.near, inverse));
        store_quads(query_rows, valid, params.value_width, quad + 3u * SIDE, times(more.far, inverse));
    }
    if at.column == 0u && other == 0u {
        let lse = top + log2(total);
        if valid.x { lse_out[query_rows.x] = lse.x; }
        if valid.y { lse_out[query_rows.y] = lse.y; }
        if valid.z { lse_out[query_rows.z] = lse.z; }
        if valid.w { lse_out[query_rows.w] = lse.w; }
    }
}
