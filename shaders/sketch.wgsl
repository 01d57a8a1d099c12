// The test matrices of the randomized SVD: Omega = [start, Gaussian], one a matrix of the batch. The Gaussian columns are
// all the same, so that a matrix gets the same result whatever batch it is in, or each matrix has its own.
//
// needs: lib/grid.wgsl, lib/random.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> start: array<f32>;
@group(0) @binding(2) var<storage, read_write> omega: array<f32>;

fn gaussian(matrix: u32, within: u32) -> f32 {
    let stream = select(0u, params.first + matrix, params.distinct > 0u);
    return random_normal(vec2<u32>(params.seed_low, params.seed_high), stream, within);
}

// omega: [batch, rows, columns], start: [batch, rows, start_columns]
@compute @workgroup_size(WG)
fn sketch_warm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let size = params.rows * params.columns;
    if i >= size * params.batch {
        return;
    }
    let column = i % params.columns;
    if column < params.start_columns {
        omega[i] = start[i / params.columns * params.start_columns + column];
    } else {
        omega[i] = gaussian(i / size, i % size);
    }
}

@compute @workgroup_size(WG)
fn sketch_cold(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let size = params.rows * params.columns;
    if i < size * params.batch {
        omega[i] = gaussian(i / size, i % size);
    }
}
