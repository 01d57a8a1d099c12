// AdamW for decoupled matrices in one pass over their state: the gradient's common part is added or removed on the way, the
// weights move, and either the skinny products of the direction come out or the weights follow W_c too.
// ROWS is 16: of more rows at once the loop is more code than a processor's first cache of instructions holds.
//
// needs: lib/grid.wgsl, oct, software/eight_rows.wgsl, lib/pack_four.wgsl, lib/adam.wgsl

// Whether the common part takes part, whether the gradient itself does, whether the weights move, and whether they are W =
// W_c + W_u, which follows the step of W_c.
override COMMON: bool = true;
override FULL: bool = true;
override MOVE: bool = true;
override FOLLOW: bool = true;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<StoredOct>;
@group(0) @binding(2) var<storage, read_write> mean: array<StoredOct>;
@group(0) @binding(3) var<storage, read_write> square: array<StoredOct>;
@group(0) @binding(4) var<storage, read_write> weight: array<StoredOct>;
// [matrices, rows, 16] = [U | (I - P_U) X V]; without COMMON [layers, rows, 8] = U.
@group(0) @binding(5) var<storage, read> left: array<StoredOct>;
// U^T X: [matrices, 8, octs] if COMMON; from `vt_first` on V^T: [layers, 8, octs]; at `clip_at` the clip.
@group(0) @binding(6) var<storage, read> right: array<StoredOct>;
@group(0) @binding(7) var<storage, read_write> parts: array<StoredOct>;
@group(0) @binding(8) var<storage, read_write> b: array<StoredOct>;
// What W_c moves by, the decay apart: [layers, rows, octs].
@group(0) @binding(9) var<storage, read_write> common_step: array<StoredOct>;

// Both factors of the common part are given with `scale`: U^T X, not U, and (I - P_U) X V, not V, as products of the
// direction take U and V.
fn factors(at: Place, row: u32, inside: bool, scale: f32) -> Pair {
    if COMMON {
        let i = (at.matrix * params.rows + row) * 2u;
        let complement = oct(left[i + 1u]);
        return Pair(masked(oct(left[i]), inside), Oct(scale * complement.low, scale * complement.high));
    }
    return Pair(masked(oct(left[at.layer * params.rows + row]), inside), Oct());
}

// What belongs to the `i`-th eight columns of U^T X and V^T.
fn columns_at(a_first: u32, v_first: u32, i: u32, scale: f32) -> Columns {
    var columns: Columns;
    if COMMON {
        let a = oct(right[a_first + i]);
        columns.a_low = spread(scale * a.low);
        columns.a_high = spread(scale * a.high);
    }
    let v = oct(right[v_first + i]);
    columns.b_low = spread(v.low);
    columns.b_high = spread(v.high);
    return columns;
}

// The factors on the gradient and on its common part, clipped, and whether the gradient is not finite, so that nothing is to
// change.
struct Clip {
    full: f32,
    part: f32,
    failed: bool,
}

fn loaded_clip() -> Clip {
    let clip = oct(right[params.clip_at]).low;
    return Clip(clip.y * params.on_full, clip.y * params.on_common, clip.z != 0.0);
}

struct Moved {
    direction: Oct,
    old: StoredOct,
    weight: Oct,
}

fn descend(old: vec4<f32>, direction: vec4<f32>) -> vec4<f32> {
    return old - params.lr * (direction + params.decay * old);
}

fn update(i: u32, inside: bool, f: Pair, columns: Columns, clip: Clip) -> Moved {
    var g: Oct;
    if COMMON {
        g = expand_pair(f, columns);
    }
    if FULL {
        let full = oct(gradient[i]);
        g = Oct(g.low + clip.full * full.low, g.high + clip.full * full.high);
    }
    let old_mean = mean[i];
    let old_square = square[i];
    let m = oct(old_mean);
    let v = oct(old_square);
    let low = adam(g.low, m.low, v.low);
    let high = adam(g.high, m.high, v.high);
    let old = weight[i];
    let w = oct(old);
    if inside || !ROW_TAIL {
        mean[i] = replaced(old_mean, Oct(low.mean, high.mean), clip.failed);
        square[i] = replaced(old_square, Oct(low.square, high.square), clip.failed);
    }
    return Moved(Oct(low.direction, high.direction), old,
                 Oct(descend(w.low, low.direction), descend(w.high, high.direction)));
}

fn move_oct(i: u32, inside: bool, f: Pair, columns: Columns, clip: Clip) -> Oct {
    let moved = update(i, inside, f, columns, clip);
    if MOVE && (inside || !ROW_TAIL) {
        weight[i] = replaced(moved.old, moved.weight, clip.failed);
    }
    return moved.direction;
}

fn touch(first: u32) -> u32 {
    var bits = 0u;
    for (var i = 0u; i < PAGES; i++) {
        let at = page(first, i);
        bits |= touched(mean[at]) | touched(square[at]);
        if FULL {
            bits |= touched(gradient[at]);
        }
        if MOVE {
            bits |= touched(weight[at]);
        }
    }
    return bits;
}

fn store_row(at: Place, row: u32, inside: bool, sum: Oct) {
    if inside {
        b[at.matrix * params.rows + row] = stored(sum);
    }
}

// Takes WALKS of any number; a walk adds to the `parts` of those before it.
// weight -= lr (D + decay weight) if MOVE, D AdamW's direction for the gradient on_full G + on_common (the common part),
// clipped; parts and b as in software/spectral_products_rows.wgsl, of D.
@compute @workgroup_size(WG)
fn spectral_adam(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() {
        return;
    }
    let clip = loaded_clip();
    let at = place(index, lane);
    let a_first = (at.matrix * 8u + lane) * params.octs;
    let v_first = params.vt_first + (at.layer * 8u + lane) * params.octs;
    let part = (at.block * 8u + lane) * params.octs;
    let end = min(at.first + ROWS * WALKS, params.rows);
    for (var row = at.first; row < end; row += ROWS) {
        let rows = rows_from(row + lane);
        let f0 = factors(at, rows.at.x, rows.inside.x, clip.part);
        let f1 = factors(at, rows.at.y, rows.inside.y, clip.part);
        let first = (vec4(at.matrix * params.rows) + rows.at) * params.octs;
        var sum0: Oct;
        var sum1: Oct;
        let begin = unused(touch(first.x) | touch(first.y));
        for (var i = begin; i < params.octs; i++) {
            let columns = columns_at(a_first, v_first, i, clip.part);
            let d0 = move_oct(first.x + i, rows.inside.x, f0, columns, clip);
            sum0 = reduce_oct(sum0, d0, columns.b_low, columns.b_high);
            let d1 = move_oct(first.y + i, rows.inside.y, f1, columns, clip);
            sum1 = reduce_oct(sum1, d1, columns.b_low, columns.b_high);
            let before = oct(parts[part + i]);
            let again = row > at.first;
            parts[part + i] = stored(Oct(
                add_inner(inner_two(f0.a, f1.a, d0.low, d1.low), lane) + select(vec4(0.0), before.low, again),
                add_inner(inner_two(f0.a, f1.a, d0.high, d1.high), lane) + select(vec4(0.0), before.high, again)));
        }
        store_row(at, rows.at.x, rows.inside.x, sum0);
        store_row(at, rows.at.y, rows.inside.y, sum1);
    }
}

// `c` is the place in what the layer's experts share.
fn follow_oct(i: u32, c: u32, inside: bool, f: Pair, columns: Columns, clip: Clip) {
    let moved = update(i, inside, f, columns, clip);
    if inside || !ROW_TAIL {
        if FOLLOW {
            let step = oct(common_step[c]);
            weight[i] = replaced(moved.old, Oct(moved.weight.low + step.low, moved.weight.high + step.high), clip.failed);
        } else {
            weight[i] = replaced(moved.old, moved.weight, clip.failed);
            common_step[c] = stored(Oct(-params.lr * moved.direction.low, -params.lr * moved.direction.high));
        }
    }
}

// weight -= lr (D + decay weight); with FOLLOW weight += common_step, else common_step = -lr D.
@compute @workgroup_size(WG)
fn spectral_adam_follow(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() {
        return;
    }
    let clip = loaded_clip();
    let at = place(index, lane);
    let f0 = factors(at, at.near.at.x, true, clip.part);
    let f1 = factors(at, at.near.at.y, true, clip.part);
    let first = (vec4(at.matrix * params.rows) + at.near.at) * params.octs;
    let shared_row = (vec4(at.layer * params.rows) + at.near.at) * params.octs;
    let a_first = (at.matrix * 8u + lane) * params.octs;
    let v_first = params.vt_first + (at.layer * 8u + lane) * params.octs;
    let begin = unused(touch(first.x) | touch(first.y));
    for (var i = begin; i < params.octs; i++) {
        let columns = columns_at(a_first, v_first, i, clip.part);
        follow_oct(first.x + i, shared_row.x + i, at.near.inside.x, f0, columns, clip);
        follow_oct(first.y + i, shared_row.y + i, at.near.inside.y, f1, columns, clip);
    }
}
