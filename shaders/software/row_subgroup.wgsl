// A workgroup that is one subgroup takes a row: neighbouring threads read neighbouring packs.
//
// For software adapters, where what the row's threads share is loaded once: no workgroup memory, no barrier.
//
// provides: row
// needs: lib/grid.wgsl

override WG: u32 = 8;

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
    return subgroupAdd(x);
}

fn row_max(x: f32, lane: u32) -> f32 {
    return subgroupMax(x);
}
