// What the experts of a layer share, added to each of them.
//
// needs: lib/grid.wgsl, lib/stretch.wgsl, lanes

// Whether y itself is x.
override IN_PLACE: u32 = 0;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read> common_matrix: array<Pack>;
@group(0) @binding(3) var<storage, read_write> y: array<Pack>;

// y: [layers, experts, size] = own x + factor common_matrix: [layers, size].
@compute @workgroup_size(WG)
fn add_shared(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let own = stretch(group, groups, lane, params.count);
    if own.start >= own.end {
        return;
    }
    // Divisions are dear on software adapters: from here on it counts.
    let matrix = own.start / params.size;
    var within = own.start % params.size;
    var expert = matrix % params.experts;
    var shared_at = matrix / params.experts * params.size + within;
    for (var i = own.start; i < own.end; i += stretch_step()) {
        var value: Pack;
        if IN_PLACE != 0u {
            value = y[i];
        } else {
            value = x[i];
        }
        y[i] = params.own * value + params.factor * common_matrix[shared_at];
        within += stretch_step();
        shared_at += stretch_step();
        // A matrix is at least as long as a step, or a step is all that a thread takes.
        let over = within >= params.size;
        let last = expert + 1u == params.experts;
        shared_at -= select(0u, params.size, over && !last);
        expert = select(expert, select(expert + 1u, 0u, last), over);
        within -= select(0u, params.size, over);
    }
}
