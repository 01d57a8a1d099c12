// A workgroup takes a row: neighbouring threads read neighbouring packs.
//
// WG is a power of two; sums are trees of fixed shape.
//
// provides: row
// needs: lib/grid.wgsl

override WG: u32 = 64;

var<workgroup> row_values: array<f32, WG>;

fn row_index(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return workgroup_index(group, groups);
}

// First pack of the row for this thread, and the distance to its next.
fn row_begin(lane: u32) -> u32 {
    return lane;
}

fn row_step() -> u32 {
    return WG;
}

fn row_sum(x: f32, lane: u32) -> f32 {
    workgroupBarrier();
    row_values[lane] = x;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            row_values[lane] += row_values[lane + half];
        }
        workgroupBarrier();
    }
    return row_values[0];
}

fn row_max(x: f32, lane: u32) -> f32 {
    workgroupBarrier();
    row_values[lane] = x;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            row_values[lane] = max(row_values[lane], row_values[lane + half]);
        }
        workgroupBarrier();
    }
    return row_values[0];
}
