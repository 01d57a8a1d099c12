// Rows of a table of 16 bits by token, in f32: the first step of a forward pass whose activations are wider than its weights.
//
// needs: lib/grid.wgsl, lib/token_row.wgsl, table

override WG: u32 = 64;

@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

// The launch with the table's first rows also writes zero where the token is in none of its rows; later ones overwrite.
@compute @workgroup_size(WG)
fn embedding_wide(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i / params.width >= params.tokens {
        return;
    }
    let place = place_in_table(i);
    if place != ELSEWHERE {
        y[i] = table_four(place);
    } else if params.first == 0u {
        y[i] = vec4(0.0);
    }
}
