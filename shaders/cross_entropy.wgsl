// Cross-entropy of rows of logits with their targets, and its gradient in the same pass.
//
// A row's loss is log(sum_j exp(x_j - m)) + m - x_target with the row's maximum m. A target past the row's end adds
// neither loss nor gradient.
//
// needs: lib/grid.wgsl, pack, row

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<StoredPack>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogits: array<StoredPack>;

struct Row {
    base: u32,
    maximum: f32,
    // sum of exp(x_j - maximum)
    sum: f32,
    loss: f32,
    known: bool,
}

fn row_loss(row: u32, lane: u32) -> Row {
    let base = row * params.width;
    let goal = targets[row];
    var largest = wide(logits[base]);
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        largest = max(largest, wide(logits[base + i]));
    }
    let maximum = row_max(pack_max(largest), lane);
    var sums = Pack();
    var hit = Pack();
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        let x = wide(logits[base + i]) - maximum;
        sums += exp(x);
        hit += x * pack_one(goal, i * PACK);
    }
    let sum = row_sum(pack_sum(sums), lane);
    let at_target = row_sum(pack_sum(hit), lane);
    let known = goal < params.width * PACK;
    return Row(base, maximum, sum, select(0.0, log(sum) - at_target, known), known);
}

@compute @workgroup_size(WG)
fn token_losses(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let index = row_index(group, groups, lane);
    if index >= params.rows {
        return;
    }
    let row = row_loss(index, lane);
    if row_begin(lane) == 0u {
        losses[index] = row.loss;
    }
}

// dlogits = scale (softmax - onehot)
@compute @workgroup_size(WG)
fn cross_entropy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let index = row_index(group, groups, lane);
    if index >= params.rows {
        return;
    }
    let row = row_loss(index, lane);
    if row_begin(lane) == 0u {
        losses[index] = row.loss;
    }
    let factor = select(0.0, params.scale, row.known);
    let goal = targets[index];
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        let p = exp(wide(logits[row.base + i]) - row.maximum) / row.sum;
        dlogits[row.base + i] = narrow(factor * (p - pack_one(goal, i * PACK)));
    }
}
