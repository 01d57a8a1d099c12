// Where a thread is in its workgroup, whatever size its subgroup has where that varies.
//
// The number of its subgroup, its lane there, and the lanes of the subgroup. Subgroups are filled one after the other, as the
// threads of a workgroup of one dimension are numbered.
fn subgroup_of(thread: u32) -> vec3<u32> {
    if !VARYING {
        return vec3(thread / LANES, thread % LANES, LANES);
    }
    let first = subgroupMin(thread);
    let lanes = subgroupAdd(1u);
    return vec3(first / lanes, thread - first, lanes);
}
