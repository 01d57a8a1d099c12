// Tokens to rows grouped by expert, and the gradient back; one row a workgroup.
//
// needs: lib/grid.wgsl, pack, row, lib/gather.wgsl

@group(0) @binding(5) var<storage, read> x: array<StoredPack>;

// A row's gradient counts as it is.
fn choice_weight(pair: u32) -> f32 {
    return 1.0;
}

// y[r] = x[source[r] / K], zero where there is no source. A row whose token is not bound here is left alone.
@compute @workgroup_size(WG)
fn permute(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let row = row_index(group, groups, lane);
    if row >= params.rows {
        return;
    }
    let pair = source[row];
    let target_row = row * params.width;
    if pair == NONE {
        for (var i = row_begin(lane); i < params.width; i += row_step()) {
            y[target_row + i] = narrow(Pack(0.0));
        }
        return;
    }
    let token = pair / params.top_k - params.first;
    if token >= params.count {
        return;
    }
    let source_row = token * params.width;
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        y[target_row + i] = x[source_row + i];
    }
}

@compute @workgroup_size(WG)
fn permute_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    gather(row_index(group, groups, lane), lane);
}
