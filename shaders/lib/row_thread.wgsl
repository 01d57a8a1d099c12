// A thread takes a whole row.
//
// For software adapters: a vec4 load costs the same wherever its lanes point, and a row needs no barrier.
//
// provides: row
// needs: lib/grid.wgsl

override WG: u32 = 64;

fn row_index(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return workgroup_index(group, groups) * WG + lane;
}

// First pack of the row for this thread, and the distance to its next.
fn row_begin(lane: u32) -> u32 {
    return 0u;
}

fn row_step() -> u32 {
    return 1u;
}

fn row_sum(x: f32, lane: u32) -> f32 {
    return x;
}

fn row_max(x: f32, lane: u32) -> f32 {
    return x;
}
