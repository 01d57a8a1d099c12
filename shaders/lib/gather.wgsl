// The sum over a token's choices of their rows in the grouped layout, each times the kernel's
// `fn choice_weight(pair: u32) -> f32`.
//
// needs: lib/grid.wgsl, pack, row

const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<StoredPack>;
@group(0) @binding(2) var<storage, read> slot: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(4) var<storage, read> source: array<u32>;

// y[t] = sum_j w[t, j] z[slot[t, j]] + factor y[t] in the order of j, over the choices first_choice..last_choice whose
// row is bound here.
fn gather(token: u32, lane: u32) {
    if token >= params.rows {
        return;
    }
    let target_row = token * params.width;
    for (var i = row_begin(lane); i < params.width; i += row_step()) {
        var sum = Pack(0.0);
        if params.factor != 0.0 {
            sum = params.factor * wide(y[target_row + i]);
        }
        for (var j = params.first_choice; j < params.last_choice; j++) {
            let pair = token * params.top_k + j;
            let row = slot[pair] - params.first;
            if row < params.count {
                sum += choice_weight(pair) * wide(z[row * params.width + i]);
            }
        }
        y[target_row + i] = narrow(sum);
    }
}
