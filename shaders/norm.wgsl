// The global gradient norm in two fixed-order stages.
//
// needs: lib/grid.wgsl, lib/stretch.wgsl, lanes

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;

// Only some of the columns count.
override COLUMNS: bool = false;

// The sum of the squares of a thread's elements; with COLUMNS only of the packs from `first_column` on of rows of `columns` packs.
fn squares(own: Stretch) -> f32 {
    var sum = Pack(0.0);
    for (var i = own.start; i < own.end; i += stretch_step()) {
        if !COLUMNS || i % params.columns >= params.first_column {
            let value = x[i];
            sum += value * value;
        }
    }
    return pack_sum(sum);
}

// partials[first_slot + thread] = weight * squares of this thread: for software adapters, to which a barrier is dear.
@compute @workgroup_size(WG)
fn sum_squares(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index * WG * ITEMS >= params.packs {
        return;
    }
    let sum = squares(stretch(group, groups, lane, params.packs));
    partials[params.first_slot + index * WG + lane] = params.weight * sum;
}

var<workgroup> sums: array<f32, WG>;

// partials[first_slot + workgroup] = weight * squares of this workgroup, added in a tree: for GPUs, which want many threads with
// little each.
@compute @workgroup_size(WG)
fn sum_squares_workgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                         @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    sums[lane] = squares(stretch(group, groups, lane, params.packs));
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            sums[lane] += sums[lane + half];
        }
    }
    if lane == 0u && index * WG * ITEMS < params.packs {
        partials[params.first_slot + index] = params.weight * sums[0];
    }
}
