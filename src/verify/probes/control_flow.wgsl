// Threads that go different ways, and loops that are long.

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

// How many steps a number takes to 1 by Collatz's rule: neighbours' loops end far apart.
@compute @workgroup_size(64)
fn loops_of_different_lengths(@builtin(global_invocation_id) id: vec3u) {
    var n = x[id.x];
    var steps = 0u;
    while (n != 1u) {
        if (n % 2u == 0u) {
            n /= 2u;
        } else {
            n = 3u * n + 1u;
        }
        steps++;
    }
    out[id.x] = steps;
}

// Breaks, continues, a switch and an early return.
@compute @workgroup_size(64)
fn ways_out_of_loops(@builtin(global_invocation_id) id: vec3u) {
    let seed = x[id.x];
    out[id.x] = 7u;
    if (seed % 11u == 3u) {
        return;
    }
    var sum = 0u;
    for (var i = 0u; i < 40u; i++) {
        if ((seed + i) % 3u == 0u) {
            continue;
        }
        var inner = 0u;
        loop {
            if (inner >= (seed + i) % 5u) {
                break;
            }
            switch ((seed ^ inner) % 4u) {
                case 0u: { sum += 1u; }
                case 1u, 2u: { sum += inner; }
                default: { sum ^= i; }
            }
            continuing {
                inner++;
            }
        }
        if (sum > 90u) {
            break;
        }
    }
    out[id.x] = sum * 64u + seed % 64u;
}

// So many iterations, of which none is for nothing.
@compute @workgroup_size(1)
fn iterations(@builtin(global_invocation_id) id: vec3u) {
    var state = 1u;
    for (var i = 0u; i < x[id.x]; i++) {
        state = state * 1664525u + 1013904223u;
    }
    out[id.x] = state;
}

// The same in two loops, one in the other.
@compute @workgroup_size(1)
fn nested_iterations(@builtin(global_invocation_id) id: vec3u) {
    var state = 1u;
    for (var i = 0u; i < x[id.x]; i++) {
        for (var j = 0u; j < x[id.x]; j++) {
            state = state * 1664525u + 1013904223u;
        }
    }
    out[id.x] = state;
}
