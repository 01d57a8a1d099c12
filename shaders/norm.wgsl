// The global gradient norm in two fixed-order stages. Needs lib/grid.wgsl, lib/pack*.wgsl.

override WG: u32 = 64;
// Packs that one thread of the first stage sums.
override ITEMS: u32 = 256;
// Whether these are neighbours, as in adamw.wgsl; otherwise neighbouring threads take neighbours.
override STRETCHES: bool = false;

struct Params {
    packs: u32,
    first_slot: u32,
    columns: u32,
    first_column: u32,
    weight: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Pack>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;

// partials[first_slot + thread] = weight * the sum of the squares of this thread's elements. Of a scalar pack only those
// in columns first_column.. of rows of `columns` count.
@compute @workgroup_size(WG)
fn sum_squares(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let first = index * WG * ITEMS;
    if first >= params.packs {
        return;
    }
    let start = first + select(lane, lane * ITEMS, STRETCHES);
    let end = min(first + select(WG, lane + 1u, STRETCHES) * ITEMS, params.packs);
    var sum = Pack(0.0);
    for (var i = start; i < end; i += select(WG, 1u, STRETCHES)) {
        if PACK > 1u || i % params.columns >= params.first_column {
            let value = x[i];
            sum += value * value;
        }
    }
    partials[params.first_slot + index * WG + lane] = params.weight * pack_sum(sum);
}
