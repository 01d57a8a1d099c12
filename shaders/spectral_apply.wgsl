// Moves decoupled matrices and keeps W = W_c + W_u merged. Needs lib/grid.wgsl, lib/pack*.wgsl, lib/low_rank.wgsl.

struct Params {
    matrices: u32,
    rows: u32,
    packs: u32,
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
    if FULL != 0u {
        value += params.on_full * direction[i];
    }
    return value;
}

fn move_row(at: Place, r: u32, part: Pack) {
    let row = at.row + r;
    if row < params.rows {
        let i = (at.matrix * params.rows + row) * params.packs + at.column;
        weight[i] = moved(i, part);
    }
}

fn merge_row(at: Place, r: u32, part: Pack) {
    let row = at.row + r;
    if row < params.rows {
        let i = (at.matrix * params.rows + row) * params.packs + at.column;
        let value = moved(i, part);
        weight[i] = value;
        merged[i] = w_c[(at.matrix / params.experts * params.rows + row) * params.packs + at.column] + value;
    }
}

// weight += on_full direction + on_common left [right; vt]. What FULL or COMMON leave out is not read.
@compute @workgroup_size(WG)
fn spectral_apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups), lane);
    let sums = low_rank(at);
    if at.inside && clip[2] == 0.0 {
        move_row(at, 0u, sums.s0);
        move_row(at, 1u, sums.s1);
        move_row(at, 2u, sums.s2);
        move_row(at, 3u, sums.s3);
        move_row(at, 4u, sums.s4);
        move_row(at, 5u, sums.s5);
        move_row(at, 6u, sums.s6);
        move_row(at, 7u, sums.s7);
    }
}

// As spectral_apply for W_u, and merged = w_c + weight.
@compute @workgroup_size(WG)
fn spectral_merge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups), lane);
    let sums = low_rank(at);
    if at.inside && clip[2] == 0.0 {
        merge_row(at, 0u, sums.s0);
        merge_row(at, 1u, sums.s1);
        merge_row(at, 2u, sums.s2);
        merge_row(at, 3u, sums.s3);
        merge_row(at, 4u, sums.s4);
        merge_row(at, 5u, sums.s5);
        merge_row(at, 6u, sums.s6);
        merge_row(at, 7u, sums.s7);
    }
}
