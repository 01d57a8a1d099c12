// Rows grouped by expert back to tokens, weighted, and the gradients; one row a workgroup.
//
// needs: lib/grid.wgsl, pack, row, lib/gather.wgsl

@group(0) @binding(5) var<storage, read> weights: array<f32>;
@group(0) @binding(6) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(7) var<storage, read_write> dz: array<StoredPack>;
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;

fn choice_weight(pair: u32) -> f32 {
    return weights[pair];
}

@compute @workgroup_size(WG)
fn combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    gather(row_index(group, groups, lane), lane);
}

// dz[r] = w[p] dy[t], dw[p] = <dy[t], z[r]> with p = source[r], t = p / K; dz[r] = 0 where there is no source.
// Rows whose token is not bound here are left alone.
@compute @workgroup_size(WG)
fn combine_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let row = row_index(group, groups, lane);
    let inside = row < params.rows;
    var pair = NONE;
    if inside {
        pair = source[row];
    }
    let first = row * params.width;
    if inside && pair == NONE && params.factor == 0.0 {
        for (var i = row_begin(lane); i < params.width; i += row_step()) {
            dz[first + i] = narrow(Pack(0.0));
        }
    }
    let token = pair / params.top_k - params.first;
    let present = pair != NONE && token < params.count;
    let local_pair = pair - params.first * params.top_k;
    var sum = 0.0;
    if present {
        let weight = weights[local_pair];
        for (var i = row_begin(lane); i < params.width; i += row_step()) {
            let gradient = wide(dy[token * params.width + i]);
            sum += pack_dot(gradient, wide(z[first + i]));
            var product = weight * gradient;
            if params.factor != 0.0 {
                product += params.factor * wide(dz[first + i]);
            }
            dz[first + i] = narrow(product);
        }
    }
    sum = row_sum(sum, lane);
    if present && lane == 0u {
        if params.dw_factor != 0.0 {
            sum += params.dw_factor * dw[local_pair];
        }
        dw[local_pair] = sum;
    }
}
