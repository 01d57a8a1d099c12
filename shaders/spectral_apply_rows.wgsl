// Adds a common part to decoupled matrices, and keeps W = W_c + W_u merged. Needs lib/grid.wgsl, lib/eight_rows.wgsl.

// Whether the common part takes part.
override COMMON: bool = true;

struct Params {
    matrices: u32,
    rows: u32,
    packs: u32,
    experts: u32,
    on_common: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> left: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> right: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> vt: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> clip: array<f32>;
@group(0) @binding(6) var<storage, read> w_c: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> merged: array<vec4<f32>>;

struct Factors {
    u: Row,
    rest: Row,
}

fn factors(at: Place, row: u32) -> Factors {
    if COMMON {
        let i = (at.matrix * params.rows + row) * 4u;
        return Factors(Row(left[i], left[i + 1u]), Row(left[i + 2u], left[i + 3u]));
    }
    return Factors(Row(vec4(0.0), vec4(0.0)), Row(vec4(0.0), vec4(0.0)));
}

fn moved(i: u32, f: Factors, a: Eight, v: Eight) -> vec4<f32> {
    if COMMON {
        return weight[i] + params.on_common * expand(expand(vec4(0.0), f.u, a), f.rest, v);
    }
    return weight[i];
}

fn move_quad(i: u32, inside: bool, f: Factors, a: Eight, v: Eight) {
    let value = moved(i, f, a, v);
    if inside || !ROW_TAIL {
        weight[i] = value;
    }
}

fn merge_quad(i: u32, shared_quad: u32, inside: bool, f: Factors, a: Eight, v: Eight) {
    let value = moved(i, f, a, v);
    if inside || !ROW_TAIL {
        if COMMON {
            weight[i] = value;
        }
        merged[i] = w_c[shared_quad] + value;
    }
}

fn failed() -> bool {
    return clip[2] != 0.0;
}

// weight += on_common left [right; vt]
@compute @workgroup_size(WG)
fn spectral_apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() || failed() {
        return;
    }
    let at = place(index, lane);
    let f0 = factors(at, at.rows.x);
    let f1 = factors(at, at.rows.y);
    let f2 = factors(at, at.rows.z);
    let f3 = factors(at, at.rows.w);
    let first = (vec4(at.matrix * params.rows) + at.rows) * params.packs;
    for (var i = 0u; i < params.packs; i++) {
        var a: Eight;
        var v: Eight;
        if COMMON {
            a = spread(right[(at.matrix * 8u + lane) * params.packs + i]);
            v = spread(vt[(at.layer * 8u + lane) * params.packs + i]);
        }
        move_quad(first.x + i, at.inside.x, f0, a, v);
        move_quad(first.y + i, at.inside.y, f1, a, v);
        move_quad(first.z + i, at.inside.z, f2, a, v);
        move_quad(first.w + i, at.inside.w, f3, a, v);
    }
}

// As spectral_apply for W_u, and merged = w_c + weight.
@compute @workgroup_size(WG)
fn spectral_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() || failed() {
        return;
    }
    let at = place(index, lane);
    let f0 = factors(at, at.rows.x);
    let f1 = factors(at, at.rows.y);
    let f2 = factors(at, at.rows.z);
    let f3 = factors(at, at.rows.w);
    let first = (vec4(at.matrix * params.rows) + at.rows) * params.packs;
    let shared_row = (vec4(at.layer * params.rows) + at.rows) * params.packs;
    for (var i = 0u; i < params.packs; i++) {
        var a: Eight;
        var v: Eight;
        if COMMON {
            a = spread(right[(at.matrix * 8u + lane) * params.packs + i]);
            v = spread(vt[(at.layer * 8u + lane) * params.packs + i]);
        }
        merge_quad(first.x + i, shared_row.x + i, at.inside.x, f0, a, v);
        merge_quad(first.y + i, shared_row.y + i, at.inside.y, f1, a, v);
        merge_quad(first.z + i, shared_row.z + i, at.inside.z, f2, a, v);
        merge_quad(first.w + i, shared_row.w + i, at.inside.w, f3, a, v);
    }
}
