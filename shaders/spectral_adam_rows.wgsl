// AdamW for decoupled matrices in one pass over their state: the gradient's common part is added or removed on the way, the
// weights move, and either the skinny products of the direction come out or the weights follow W_c too.
// Needs lib/grid.wgsl, lib/pack_vec4.wgsl, lib/adam.wgsl, lib/eight_rows.wgsl.

// Whether the common part takes part, whether the gradient itself does, whether the weights move, and whether they are W =
// W_c + W_u, which follows the step of W_c.
override COMMON: bool = true;
override FULL: bool = true;
override MOVE: bool = true;
override FOLLOW: bool = true;

struct Params {
    matrices: u32,
    rows: u32,
    packs: u32,
    experts: u32,
    vt_first: u32,
    clip_at: u32,
    on_full: f32,
    on_common: f32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    correct1: f32,
    correct2: f32,
    eps: f32,
    decay: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> mean: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> square: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> weight: array<vec4<f32>>;
// [matrices, rows, 16] = [U | (I - P_U) X V]; without COMMON [layers, rows, 8] = U.
@group(0) @binding(5) var<storage, read> left: array<vec4<f32>>;
// U^T X: [matrices, 8, packs] if COMMON; from `vt_first` on V^T: [layers, 8, packs]; at `clip_at` the clip.
@group(0) @binding(6) var<storage, read> right: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> b: array<vec4<f32>>;
// What W_c moves by, the decay apart: [layers, rows, packs].
@group(0) @binding(9) var<storage, read_write> common_step: array<vec4<f32>>;

// The two halves of a row of `left`.
struct Factors {
    u: Row,
    rest: Row,
}

fn factors(at: Place, row: u32, inside: bool) -> Factors {
    if COMMON {
        let i = (at.matrix * params.rows + row) * 4u;
        return Factors(masked(Row(left[i], left[i + 1u]), inside), Row(left[i + 2u], left[i + 3u]));
    }
    let i = (at.layer * params.rows + row) * 2u;
    return Factors(masked(Row(left[i], left[i + 1u]), inside), Row(vec4(0.0), vec4(0.0)));
}

// Four columns of a row of the common part; `a` and `v` are those columns of U^T X and V^T.
fn common_part(f: Factors, a: Eight, v: Eight) -> vec4<f32> {
    if COMMON {
        return expand(expand(vec4(0.0), f.u, a), f.rest, v);
    }
    return vec4(0.0);
}

struct Moved {
    direction: vec4<f32>,
    weight: vec4<f32>,
}

fn update(i: u32, inside: bool, part: vec4<f32>, scale: f32) -> Moved {
    var g = params.on_common * part;
    if FULL {
        g += params.on_full * gradient[i];
    }
    let step = adam(scale * g, mean[i], square[i]);
    let old = weight[i];
    if inside || !ROW_TAIL {
        mean[i] = step.mean;
        square[i] = step.square;
    }
    return Moved(step.direction, old - params.lr * (step.direction + params.decay * old));
}

fn move_quad(i: u32, inside: bool, part: vec4<f32>, scale: f32) -> vec4<f32> {
    let moved = update(i, inside, part, scale);
    if MOVE && (inside || !ROW_TAIL) {
        weight[i] = moved.weight;
    }
    return moved.direction;
}

fn store_row(at: Place, row: u32, inside: bool, sum: Row) {
    if inside {
        let i = (at.matrix * params.rows + row) * 2u;
        b[i] = sum.low;
        b[i + 1u] = sum.high;
    }
}

// weight -= lr (D + decay weight) if MOVE, D AdamW's direction for the gradient on_full G + on_common (the common part),
// clipped; parts and b as in spectral_products_rows.wgsl, of D.
@compute @workgroup_size(WG)
fn spectral_adam(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let clip = right[params.clip_at];
    // A gradient that is not finite changes nothing.
    if index >= params.matrices * blocks_of_rows() || clip.z != 0.0 {
        return;
    }
    let at = place(index, lane);
    let f0 = factors(at, at.near.at.x, at.near.inside.x);
    let f1 = factors(at, at.near.at.y, at.near.inside.y);
    let f2 = factors(at, at.near.at.z, at.near.inside.z);
    let f3 = factors(at, at.near.at.w, at.near.inside.w);
    let basis = FourRows(f0.u, f1.u, f2.u, f3.u);
    let first = (vec4(at.matrix * params.rows) + at.near.at) * params.packs;
    let a_first = (at.matrix * 8u + lane) * params.packs;
    let v_first = params.vt_first + (at.layer * 8u + lane) * params.packs;
    let part = (at.block * 8u + lane) * params.packs;
    var sums: FourRows;
    for (var i = 0u; i < params.packs; i++) {
        let v = spread(right[v_first + i]);
        var a: Eight;
        if COMMON {
            a = spread(right[a_first + i]);
        }
        let d0 = move_quad(first.x + i, at.near.inside.x, common_part(f0, a, v), clip.y);
        let d1 = move_quad(first.y + i, at.near.inside.y, common_part(f1, a, v), clip.y);
        let d2 = move_quad(first.z + i, at.near.inside.z, common_part(f2, a, v), clip.y);
        let d3 = move_quad(first.w + i, at.near.inside.w, common_part(f3, a, v), clip.y);
        let d = Four(d0, d1, d2, d3);
        sums = reduce_four(sums, d, v);
        parts[part + i] = add_inner(inner(Eight(), basis, d), lane);
    }
    store_row(at, at.near.at.x, at.near.inside.x, sums.r0);
    store_row(at, at.near.at.y, at.near.inside.y, sums.r1);
    store_row(at, at.near.at.z, at.near.inside.z, sums.r2);
    store_row(at, at.near.at.w, at.near.inside.w, sums.r3);
}

// `c` is the place in what the layer's experts share.
fn follow_quad(i: u32, c: u32, inside: bool, part: vec4<f32>, scale: f32) {
    let moved = update(i, inside, part, scale);
    if inside || !ROW_TAIL {
        if FOLLOW {
            weight[i] = moved.weight + common_step[c];
        } else {
            weight[i] = moved.weight;
            common_step[c] = -params.lr * moved.direction;
        }
    }
}

// weight -= lr (D + decay weight); with FOLLOW weight += common_step, else common_step = -lr D.
@compute @workgroup_size(WG)
fn spectral_adam_follow(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    let clip = right[params.clip_at];
    if index >= params.matrices * blocks_of_rows() || clip.z != 0.0 {
        return;
    }
    let at = place(index, lane);
    let f0 = factors(at, at.near.at.x, true);
    let f1 = factors(at, at.near.at.y, true);
    let f2 = factors(at, at.near.at.z, true);
    let f3 = factors(at, at.near.at.w, true);
    let first = (vec4(at.matrix * params.rows) + at.near.at) * params.packs;
    let shared_row = (vec4(at.layer * params.rows) + at.near.at) * params.packs;
    let a_first = (at.matrix * 8u + lane) * params.packs;
    let v_first = params.vt_first + (at.layer * 8u + lane) * params.packs;
    for (var i = 0u; i < params.packs; i++) {
        var a: Eight;
        var v: Eight;
        if COMMON {
            a = spread(right[a_first + i]);
            v = spread(right[v_first + i]);
        }
        follow_quad(first.x + i, shared_row.x + i, at.near.inside.x, common_part(f0, a, v), clip.y);
        follow_quad(first.y + i, shared_row.y + i, at.near.inside.y, common_part(f1, a, v), clip.y);
        follow_quad(first.z + i, shared_row.z + i, at.near.inside.z, common_part(f2, a, v), clip.y);
        follow_quad(first.w + i, shared_row.w + i, at.near.inside.w, common_part(f3, a, v), clip.y);
    }
}
