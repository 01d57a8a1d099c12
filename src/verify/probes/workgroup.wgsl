// What WGSL promises of workgroup memory.

@group(0) @binding(0) var<storage, read_write> out: array<u32>;

var<workgroup> zeroed: array<u32, 4096>;

// Counts what is not zero at first, then leaves all of it dirty for the workgroups that get this memory next.
@compute @workgroup_size(64)
fn zeroed_memory(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    var dirty = 0u;
    for (var i = local; i < 4096u; i += 64u) {
        dirty += select(0u, 1u, zeroed[i] != 0u);
    }
    workgroupBarrier();
    for (var i = local; i < 4096u; i += 64u) {
        zeroed[i] = 0xffffffffu;
    }
    workgroupBarrier();
    // Read again, so that the stores are not for nothing.
    out[group.x * 64u + local] = dirty + (zeroed[local * 64u] + 1u);
}

var<workgroup> partial: array<u32, 256>;

// The sum of 256 numbers that begin at the workgroup's own, in a tree of eight levels with a barrier each.
@compute @workgroup_size(256)
fn tree_reduction(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    partial[local] = (group.x * 256u + local) * 2654435761u;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (local < half) {
            partial[local] += partial[local + half];
        }
        workgroupBarrier();
    }
    if (local == 0u) {
        out[group.x] = partial[0];
    }
}

var<workgroup> shared_word: u32;

// In every round another thread tells all the others a number, which they chain.
@compute @workgroup_size(64)
fn broadcast(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    var chain = 1u;
    for (var round = 0u; round < 64u; round++) {
        if (local == (round * 37u + group.x) % 64u) {
            shared_word = local * 65536u + round;
        }
        chain = chain * 31u + workgroupUniformLoad(&shared_word);
    }
    out[group.x * 64u + local] = chain;
}

// The same with a barrier before and behind an ordinary load.
@compute @workgroup_size(64)
fn broadcast_by_barriers(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    var chain = 1u;
    for (var round = 0u; round < 64u; round++) {
        if (local == (round * 37u + group.x) % 64u) {
            shared_word = local * 65536u + round;
        }
        workgroupBarrier();
        chain = chain * 31u + shared_word;
        workgroupBarrier();
    }
    out[group.x * 64u + local] = chain;
}

var<workgroup> counters: array<atomic<u32>, 8>;

@compute @workgroup_size(256)
fn atomics(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    if (local == 0u) {
        atomicStore(&counters[2], 0xffffffffu);
        atomicStore(&counters[3], 0xffffffffu);
    }
    workgroupBarrier();
    let value = local * 3u + group.x;
    atomicAdd(&counters[0], value);
    atomicMax(&counters[1], value);
    atomicMin(&counters[2], value);
    atomicAnd(&counters[3], ~(1u << (local % 24u)));
    atomicOr(&counters[4], 1u << (local % 24u));
    atomicXor(&counters[5], value);
    atomicSub(&counters[6], 1u);
    // A sum by compare and exchange, which may fail without a reason.
    loop {
        let before = atomicLoad(&counters[7]);
        if (atomicCompareExchangeWeak(&counters[7], before, before + value).exchanged) {
            break;
        }
    }
    workgroupBarrier();
    if (local < 8u) {
        out[group.x * 8u + local] = atomicLoad(&counters[local]);
    }
}
