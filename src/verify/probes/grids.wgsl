// Where a thread is.

@group(0) @binding(0) var<storage, read_write> out: array<u32>;

// One thread a workgroup, in a grid of two dimensions.
@compute @workgroup_size(1)
fn two_dimensions(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) count: vec3u) {
    out[group.y * count.x + group.x] = group.y * 65536u + group.x;
}

@compute @workgroup_size(3, 2, 4)
fn three_dimensions(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) count: vec3u,
    @builtin(local_invocation_id) local: vec3u,
    @builtin(local_invocation_index) index: u32,
    @builtin(global_invocation_id) global: vec3u,
) {
    let flat = (group.z * count.y + group.y) * count.x + group.x;
    let place = (global.z * 256u + global.y) * 256u + global.x;
    let right = index == (local.z * 2u + local.y) * 3u + local.x;
    out[flat * 24u + index] = select(0xffffffffu, place, right);
}
