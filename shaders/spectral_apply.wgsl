// Moves decoupled matrices.
//
// needs: lib/grid.wgsl, lib/low_rank.wgsl, lanes

// Whether what all experts of a layer share takes part.
override SHARED: u32 = 0;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<Pack>;
@group(0) @binding(2) var<storage, read> direction: array<Pack>;
@group(0) @binding(3) var<storage, read> left: array<f32>;
@group(0) @binding(4) var<storage, read> right: array<Pack>;
@group(0) @binding(5) var<storage, read> vt: array<Pack>;
@group(0) @binding(6) var<storage, read> clip: array<f32>;
// [layers, rows, packs]
@group(0) @binding(7) var<storage, read> common_step: array<Pack>;

fn move_row(at: Place, r: u32, part: Pack) {
    let row = at.row + r;
    if row >= params.rows {
        return;
    }
    let i = (at.matrix * params.rows + row) * params.packs + at.column;
    let old = weight[i];
    var value = old - params.decay * old + params.on_common * part;
    if FULL != 0u {
        value += params.on_full * direction[i];
    }
    if SHARED != 0u {
        value += params.on_shared * common_step[(at.matrix / params.experts * params.rows + row) * params.packs + at.column];
    }
    weight[i] = value;
}

// weight += on_full direction + on_common left [right; vt] + on_shared common_step - decay weight. What FULL, COMMON or SHARED leave out is
// not read.
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
