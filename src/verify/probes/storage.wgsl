// Atomics and barriers in storage memory.

@group(0) @binding(0) var<storage, read_write> sums: array<atomic<u32>, 4>;
@group(0) @binding(1) var<storage, read_write> tickets: array<u32>;

// Every thread of all workgroups takes a ticket; none may be taken twice or left out.
@compute @workgroup_size(64)
fn tickets_by_atomics(@builtin(global_invocation_id) id: vec3u) {
    let ticket = atomicAdd(&sums[0], 1u);
    tickets[ticket] = ticket + 1u;
    atomicMax(&sums[1], id.x);
    atomicXor(&sums[2], id.x * 2654435761u);
    atomicAdd(&sums[3], id.x);
}

@group(0) @binding(2) var<storage, read_write> cells: array<u32>;
@group(0) @binding(3) var<storage, read_write> seen: array<u32>;

// Within a workgroup what was stored before a barrier is there behind it, in storage memory too.
@compute @workgroup_size(128)
fn stores_before_a_barrier(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let first = group.x * 128u;
    var sum = 0u;
    for (var round = 0u; round < 8u; round++) {
        cells[first + local] = local * 8u + round;
        storageBarrier();
        sum = sum * 17u + cells[first + (local * 5u + 31u * round) % 128u];
        storageBarrier();
    }
    seen[first + local] = sum;
}
