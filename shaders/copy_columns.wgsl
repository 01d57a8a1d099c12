// A range of the columns of a matrix's rows copied to a range of another's: slices, concatenation, and their gradients.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read_write> y: array<StoredPack>;

// y[row, y_first + c] = x[row, x_first + c] + beta y[row, y_first + c], c < width
@compute @workgroup_size(WG)
fn copy_columns(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i >= params.count {
        return;
    }
    let row = i / params.width;
    let column = i % params.width;
    let to = row * params.y_stride + params.y_first + column;
    var sum = wide(x[row * params.x_stride + params.x_first + column]);
    if params.beta != 0.0 {
        sum += params.beta * wide(y[to]);
    }
    y[to] = narrow(sum);
}
