// dW[e] += P_1 + P_2 + ...: the chunks of expert e beyond its first, which gemm/weight_gradient.wgsl computed, added in their order.
//
// The chunks lie in slots of `size` elements, see lib/chunks.wgsl. The workgroups of an expert's first slot add all of them; those of the
// others have nothing to do.
//
// needs: lib/grid.wgsl, lib/chunks.wgsl, store

const WG: u32 = 64u;
// Fours of a thread.
const FOURS: u32 = 4u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<f32>;

@compute @workgroup_size(WG)
fn sum_chunks(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let pieces = (params.size + 4u * FOURS * WG - 1u) / (4u * FOURS * WG);
    let first_slot = index / pieces;
    if first_slot >= params.slots {
        return;
    }
    let slot = chunk_in(first_slot);
    if !slot.used || slot.chunk != 1u {
        return;
    }
    for (var i = 0u; i < FOURS; i++) {
        let element = ((index % pieces * FOURS + i) * WG + lane) * 4u;
        if element >= params.size {
            return;
        }
        let count = params.size - element;
        var sum = vec4(0.0);
        for (var chunk = 0u; chunk < slot.last; chunk++) {
            let at = (first_slot + chunk) * params.size + element;
            sum += vec4(parts[at], parts[at + min(1u, count - 1u)], parts[at + min(2u, count - 1u)],
                        parts[at + min(3u, count - 1u)]);
        }
        store_quad(params.c_first + slot.expert * params.c_matrix + element, sum, 0u, count, 1.0);
    }
}
