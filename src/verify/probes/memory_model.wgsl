// Two threads of different workgroups and one or two words that both use, by atomics, which are relaxed in WGSL.

@group(0) @binding(0) var<storage, read_write> x: array<atomic<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<atomic<u32>>;
@group(0) @binding(2) var<storage, read_write> first: array<u32>;
@group(0) @binding(3) var<storage, read_write> second: array<u32>;

// The instance in which a thread is the other one: of another workgroup, and at another distance for every thread.
fn other(i: u32) -> u32 {
    return (i * 167u + 64u * 37u) % arrayLength(&x);
}

// Instances lie apart, so that their words are in different cache lines.
fn place(i: u32) -> u32 {
    return (i * 97u) % arrayLength(&x);
}

// Two loads of one word: the second must not see an older value than the first.
@compute @workgroup_size(64)
fn two_loads(@builtin(global_invocation_id) id: vec3u) {
    atomicStore(&x[place(id.x)], 1u);
    let i = other(id.x);
    let a = atomicLoad(&x[place(i)]);
    let b = atomicLoad(&x[place(i)]);
    first[i] = a;
    second[i] = b;
}

// A store and a load of one word, while the other stores: who sees the other's value must find it there in the end.
@compute @workgroup_size(64)
fn store_and_load(@builtin(global_invocation_id) id: vec3u) {
    atomicStore(&x[place(id.x)], 1u);
    first[id.x] = atomicLoad(&x[place(id.x)]);
    let i = other(id.x);
    atomicStore(&x[place(i)], 2u);
    second[i] = atomicLoad(&x[place(i)]);
}

// Data, then a flag; the other reads the flag, then the data.
@compute @workgroup_size(64)
fn message_passing(@builtin(global_invocation_id) id: vec3u) {
    atomicStore(&x[place(id.x)], 1u);
    atomicStore(&y[place(id.x)], 1u);
    let i = other(id.x);
    let flag = atomicLoad(&y[place(i)]);
    let data = atomicLoad(&x[place(i)]);
    first[i] = flag;
    second[i] = data;
}

// Each stores its own word and reads the other's.
@compute @workgroup_size(64)
fn store_buffer(@builtin(global_invocation_id) id: vec3u) {
    atomicStore(&x[place(id.x)], 1u);
    first[id.x] = atomicLoad(&y[place(id.x)]);
    let i = other(id.x);
    atomicStore(&y[place(i)], 1u);
    second[i] = atomicLoad(&x[place(i)]);
}
