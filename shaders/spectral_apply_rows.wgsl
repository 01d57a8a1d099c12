// Adds a common part to decoupled matrices. Needs lib/grid.wgsl, lib/eight_rows.wgsl.

struct Params {
    matrices: u32,
    rows: u32,
    packs: u32,
    experts: u32,
    on_common: f32,
    decay: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> left: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> right: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> vt: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> clip: array<f32>;

struct Factors {
    u: Row,
    rest: Row,
}

fn factors(at: Place, row: u32) -> Factors {
    let i = (at.matrix * params.rows + row) * 4u;
    return Factors(Row(left[i], left[i + 1u]), Row(left[i + 2u], left[i + 3u]));
}

fn move_quad(i: u32, inside: bool, f: Factors, a: Eight, v: Eight) {
    let old = weight[i];
    let value = old - params.decay * old + params.on_common * expand(expand(vec4(0.0), f.u, a), f.rest, v);
    if inside || !ROW_TAIL {
        weight[i] = value;
    }
}

// weight += on_common left [right; vt] - decay weight
@compute @workgroup_size(WG)
fn spectral_apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() || clip[2] != 0.0 {
        return;
    }
    let at = place(index, lane);
    let f0 = factors(at, at.near.at.x);
    let f1 = factors(at, at.near.at.y);
    let f2 = factors(at, at.near.at.z);
    let f3 = factors(at, at.near.at.w);
    let first = (vec4(at.matrix * params.rows) + at.near.at) * params.packs;
    let a_first = (at.matrix * 8u + lane) * params.packs;
    let v_first = (at.layer * 8u + lane) * params.packs;
    for (var i = 0u; i < params.packs; i++) {
        let a = spread(right[a_first + i]);
        let v = spread(vt[v_first + i]);
        move_quad(first.x + i, at.near.inside.x, f0, a, v);
        move_quad(first.y + i, at.near.inside.y, f1, a, v);
        move_quad(first.z + i, at.near.inside.z, f2, a, v);
        move_quad(first.w + i, at.near.inside.w, f3, a, v);
    }
}
