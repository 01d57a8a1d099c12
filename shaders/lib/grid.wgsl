// Number of a workgroup in a grid that Rust has laid out in two dimensions.

fn workgroup_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + group.y * groups.x;
}
