// A copy that a failed step leaves out.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> clip: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

// y = x, unless clip = [norm, scale, failed, 0] says that the step has failed.
@compute @workgroup_size(WG)
fn accept(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
          @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i < params.count && clip[2] == 0.0 {
        y[i] = x[i];
    }
}
