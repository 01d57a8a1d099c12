// The K experts of largest score + bias of each token, one token a thread.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> index: array<u32>;

// An integer that orders as the number does, with -0 = +0 and NaN below everything: comparisons are total, so K passes
// find K different experts whatever the scores hold.
fn order_key(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return 0u;
    }
    if magnitude == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits != magnitude);
}

fn key_of(row: u32, expert: u32) -> u32 {
    var value = scores[row + expert];
    if params.biased != 0u {
        value += bias[expert];
    }
    return order_key(value);
}

@compute @workgroup_size(WG)
fn routing_topk(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let row = token * params.experts;
    // Pass j takes the first, in the order (key descending, expert ascending), of those after pass j - 1's.
    var last_key = 0xffffffffu;
    var last = 0u;
    if params.first_choice > 0u {
        last = index[token * params.top_k + params.first_choice - 1u];
        last_key = key_of(row, last);
    }
    for (var j = params.first_choice; j < params.last_choice; j++) {
        var best_key = 0u;
        var best = params.experts;
        for (var e = 0u; e < params.experts; e++) {
            let key = key_of(row, e);
            let remains = key < last_key || (key == last_key && e > last);
            if remains && (best == params.experts || key > best_key) {
                best_key = key;
                best = e;
            }
        }
        index[token * params.top_k + j] = best;
        last_key = best_key;
        last = best;
    }
}
