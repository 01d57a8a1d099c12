// Moves decoupled matrices and keeps W = W_c + W_u merged. Needs lib/grid.wgsl, lib/pack*.wgsl, lib/low_rank.wgsl.

override WG: u32 = 64;

struct Params {
    matrices: u32,
    rows: u32,
    packs: u32,
    rank: u32,
    experts: u32,
    on_full: f32,
    on_common: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<Pack>;
@group(0) @binding(2) var<storage, read> direction: array<Pack>;
@group(0) @binding(3) var<storage, read> left: array<f32>;
@group(0) @binding(4) var<storage, read> right: array<Pack>;
@group(0) @binding(5) var<storage, read> vt: array<Pack>;
@group(0) @binding(6) var<storage, read> clip: array<f32>;
@group(0) @binding(7) var<storage, read> w_c: array<Pack>;
@group(0) @binding(8) var<storage, read_write> merged: array<Pack>;

fn moved(i: u32, part: Pack) -> Pack {
    var value = weight[i] + params.on_common * part;
    if params.on_full != 0.0 {
        value += params.on_full * direction[i];
    }
    return value;
}

// weight += on_full direction + on_common left [right; vt]. What has the factor 0 is not read.
@compute @workgroup_size(WG)
fn spectral_apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups) * WG + lane);
    if !at.inside || clip[2] != 0.0 {
        return;
    }
    var parts = array<Pack, ROWS>();
    if params.on_common != 0.0 {
        parts = low_rank(at);
    }
    for (var r = 0u; r < ROWS; r++) {
        let row = at.row + r;
        if row >= params.rows {
            return;
        }
        let i = (at.matrix * params.rows + row) * params.packs + at.column;
        weight[i] = moved(i, parts[r]);
    }
}

// As spectral_apply for W_u, and merged = w_c + weight.
@compute @workgroup_size(WG)
fn spectral_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups) * WG + lane);
    if !at.inside || clip[2] != 0.0 {
        return;
    }
    var parts = array<Pack, ROWS>();
    if params.on_common != 0.0 {
        parts = low_rank(at);
    }
    let layer = at.matrix / params.experts;
    for (var r = 0u; r < ROWS; r++) {
        let row = at.row + r;
        if row >= params.rows {
            return;
        }
        let i = (at.matrix * params.rows + row) * params.packs + at.column;
        let value = moved(i, parts[r]);
        weight[i] = value;
        merged[i] = w_c[(layer * params.rows + row) * params.packs + at.column] + value;
    }
}
