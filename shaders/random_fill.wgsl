// Fills of tensors with random numbers.
//
// needs: lib/grid.wgsl, lib/random.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// y[i] = scale * normal(first + i)
@compute @workgroup_size(WG)
fn fill_normal(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count {
        let key = vec2<u32>(params.seed_low, params.seed_high);
        y[i] = params.scale * random_normal(key, params.stream, params.first + i);
    }
}

// y[i] = uniform(first + i); `first` is a multiple of 4, a thread uses the four words of a block.
@compute @workgroup_size(WG)
fn fill_uniform(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = (workgroup_index(group, groups) * WG + lane) * 4u;
    if i >= params.count {
        return;
    }
    let words = random_words(vec2<u32>(params.seed_low, params.seed_high), params.stream, params.first / 4u + i / 4u);
    y[i] = unit_interval(words.x);
    if i + 1u < params.count {
        y[i + 1u] = unit_interval(words.y);
    }
    if i + 2u < params.count {
        y[i + 2u] = unit_interval(words.z);
    }
    if i + 3u < params.count {
        y[i + 3u] = unit_interval(words.w);
    }
}
