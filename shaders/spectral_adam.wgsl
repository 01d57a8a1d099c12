// AdamW for decoupled matrices in one pass over their state: the gradient's common part is added or removed on the way, the weights
// move, and the skinny products of the direction come out.
//
// needs: lib/grid.wgsl, lib/pack_four.wgsl, lib/spectral_blocks.wgsl, lib/adam.wgsl

// Whether the common part takes part, whether the gradient itself does, and whether the weights move.
override COMMON: bool = true;
override FULL: bool = true;
override MOVE: bool = true;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> mean: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> square: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> weight: array<vec4<f32>>;
// [matrices, rows, 4] = [U | (I - P_U) X V]; without COMMON [layers, rows, 2] = U.
@group(0) @binding(5) var<storage, read> left: array<vec4<f32>>;
// U^T X: [matrices, 8, packs] if COMMON; from `vt_first` on V^T: [layers, 8, packs]; at `clip_at` the clip.
@group(0) @binding(6) var<storage, read> right: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> b_parts: array<vec4<f32>>;

fn right_rows(first: u32) -> Eight {
    return Eight(right[first], right[first + params.packs], right[first + 2u * params.packs],
                 right[first + 3u * params.packs], right[first + 4u * params.packs], right[first + 5u * params.packs],
                 right[first + 6u * params.packs], right[first + 7u * params.packs]);
}

// The direction of a row, which moves where it is inside and the gradient is finite.
fn moved_row(at: Place, row: u32, a: Eight, v: Eight, clip: vec4<f32>) -> Row {
    let inside = at.inside && row < at.end_row;
    let r = min(row, params.rows - 1u);
    let i = (at.matrix * params.rows + r) * params.packs + at.column;
    var result: Row;
    var g = vec4(0.0);
    if COMMON {
        let l = (at.matrix * params.rows + r) * 4u;
        result.u_low = left[l];
        result.u_high = left[l + 1u];
        g = params.on_common * (expand(result.u_low, result.u_high, a) + expand(left[l + 2u], left[l + 3u], v));
    } else {
        let l = (at.layer * params.rows + r) * 2u;
        result.u_low = left[l];
        result.u_high = left[l + 1u];
    }
    if FULL {
        g += params.on_full * gradient[i];
    }
    let step = adam(clip.y * g, mean[i], square[i]);
    if inside && clip.z == 0.0 {
        mean[i] = step.mean;
        square[i] = step.square;
        if MOVE {
            let old = weight[i];
            weight[i] = old - params.lr * (step.direction + params.decay * old);
        }
    }
    result.x = select(vec4(0.0), step.direction, inside);
    return result;
}

// weight -= lr (D + decay weight) if MOVE, D AdamW's direction for the gradient on_full G + on_common (the common part), clipped; parts
// and b_parts are those of D.
@compute @workgroup_size(WG)
fn spectral_adam_blocks(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                        @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * params.blocks * params.tiles {
        return;
    }
    let at = place(index, lane);
    let clip = right[params.clip_at];
    let v = right_rows(params.vt_first + at.layer * RANK * params.packs + at.column);
    var own = Eight();
    if COMMON {
        own = right_rows(at.matrix * RANK * params.packs + at.column);
    }
    var a = Eight();
    for (var step = 0u; step < params.block_rows; step += BATCH) {
        for (var i = 0u; i < BATCH; i++) {
            let row = moved_row(at, at.first_row + step + i, own, v, clip);
            a = add_outer(a, row);
            put(i, at, row, v);
        }
        finish_rows(at, at.first_row + step);
    }
    store_parts(at, a);
}
