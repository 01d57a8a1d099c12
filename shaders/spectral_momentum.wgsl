// Muon's momentum for decoupled matrices, with the gradient's common part added or removed on the way.
//
// needs: lib/grid.wgsl, lib/low_rank.wgsl, lanes, lib/nesterov.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> gradient: array<Pack>;
@group(0) @binding(2) var<storage, read_write> mean: array<Pack>;
@group(0) @binding(3) var<storage, read> left: array<f32>;
@group(0) @binding(4) var<storage, read> right: array<Pack>;
@group(0) @binding(5) var<storage, read> vt: array<Pack>;
@group(0) @binding(6) var<storage, read> clip: array<f32>;

fn update(at: Place, r: u32, scale: f32, part: Pack) {
    let row = at.row + r;
    if row >= params.rows {
        return;
    }
    let i = (at.matrix * params.rows + row) * params.packs + at.column;
    var g = params.on_common * part;
    if FULL != 0u {
        g += params.on_full * gradient[i];
    }
    let step = nesterov(scale * g, mean[i]);
    mean[i] = step.mean;
    gradient[i] = step.mixed;
}

// gradient <- what is orthogonalised, for the gradient (on_full gradient + on_common left [right; vt]), clipped. Where FULL is 0 the
// gradient is only written, where COMMON is 0 the factors are not read.
@compute @workgroup_size(WG)
fn spectral_momentum(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let at = place(workgroup_index(group, groups), lane);
    let sums = low_rank(at);
    // A gradient that is not finite changes nothing.
    if at.inside && clip[2] == 0.0 {
        let scale = clip[1];
        update(at, 0u, scale, sums.s0);
        update(at, 1u, scale, sums.s1);
        update(at, 2u, scale, sums.s2);
        update(at, 3u, scale, sums.s3);
        update(at, 4u, scale, sums.s4);
        update(at, 5u, scale, sums.s5);
        update(at, 6u, scale, sums.s6);
        update(at, 7u, scale, sums.s7);
    }
}
