// Measures of pairs of subspaces.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> cosines: array<f32>;
@group(0) @binding(2) var<storage, read> sines: array<f32>;
@group(0) @binding(3) var<storage, read> products: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

// asin for 0 <= x <= sqrt(1/2), the polynomial of Cephes' asinf (Moshier): 2e-7 relative. WGSL's own may be off by more.
fn arcsine(x: f32) -> f32 {
    let z = x * x;
    let small = ((((4.2163199048e-2 * z + 2.4181311049e-2) * z + 4.5470025998e-2) * z + 7.4953002686e-2) * z
                 + 1.6666752422e-1) * z * x + x;
    if x <= 0.5 {
        return small;
    }
    let h = 0.5 * (1.0 - x);
    let root = sqrt(h);
    let rest = ((((4.2163199048e-2 * h + 2.4181311049e-2) * h + 4.5470025998e-2) * h + 7.4953002686e-2) * h
                + 1.6666752422e-1) * h * root + root;
    return 1.5707964 - 2.0 * rest;
}

// y[b, i] = angle i of pair b, rising, from its cosines (falling) and its sines (falling): each where it is accurate.
@compute @workgroup_size(WG)
fn principal_angles(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let pair = i / params.size;
    let cosine = cosines[i];
    let sine = sines[pair * params.size + params.size - 1u - i % params.size];
    if sine <= cosine {
        y[i] = arcsine(min(sine, 0.70710677));
    } else {
        y[i] = 1.5707964 - arcsine(min(cosine, 0.70710677));
    }
}

var<workgroup> partial: array<f32, WG>;

// y[b] = |products[b]|_F^2 / divisor, one workgroup a matrix of `size` elements
@compute @workgroup_size(WG)
fn mean_square_cosine(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                      @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.count {
        return;
    }
    var sum = 0.0;
    for (var i = lane; i < params.size; i += WG) {
        let value = products[index * params.size + i];
        sum += value * value;
    }
    partial[lane] = sum;
    workgroupBarrier();
    if lane == 0u {
        var total = 0.0;
        for (var i = 0u; i < WG; i++) {
            total += partial[i];
        }
        y[index] = total / params.divisor;
    }
}
