// Sum over the threads of a workgroup that is one subgroup: no workgroup memory, no barrier.
fn row_sum(value: f32, lane: u32) -> f32 {
    return subgroupAdd(value);
}
