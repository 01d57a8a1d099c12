// Tokens of each expert over the micro-batches of a step: sum = counts + add sum. One workgroup.

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> sum: array<u32>;

@compute @workgroup_size(WG)
fn sum_counts(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x + group.y > 0u {
        return;
    }
    for (var e = lane; e < params.experts; e += WG) {
        var total = counts[e];
        if params.add > 0u {
            total += sum[e];
        }
        sum[e] = total;
    }
}
