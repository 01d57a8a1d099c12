// Rows of a table of 16 bits by token, in f32: the first step of a forward pass whose activations are wider than its weights.
//
// needs: lib/grid.wgsl, table

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> token: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

// The launch with the table's first rows also writes zero where the token is in none of its rows; later ones overwrite.
@compute @workgroup_size(WG)
fn embedding_wide(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let position = i / params.width;
    if position >= params.tokens {
        return;
    }
    let row = token[position] - params.first;
    if token[position] >= params.first && row < params.rows {
        y[i] = table_four(row * params.width + i % params.width);
    } else if params.first == 0u {
        y[i] = vec4(0.0);
    }
}
