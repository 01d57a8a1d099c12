// Both skinny products of a stack X: [matrices, rows, packs] with its layers' bases, and the squares of its norms, in one pass over X.
//
// needs: lib/grid.wgsl, lib/pack_four.wgsl, lib/spectral_blocks.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
// [layers, rows, 2] and [layers, 8, packs]
@group(0) @binding(2) var<storage, read> u: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> vt: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> b_parts: array<vec4<f32>>;
// [matrices, blocks, tiles]
@group(0) @binding(6) var<storage, read_write> squares: array<f32>;

fn row_at(at: Place, row: u32) -> Row {
    let inside = at.inside && row < at.end_row;
    let r = min(row, params.rows - 1u);
    let i = (at.layer * params.rows + r) * 2u;
    let own = x[(at.matrix * params.rows + r) * params.packs + at.column];
    return Row(select(vec4(0.0), own, inside), u[i], u[i + 1u]);
}

@compute @workgroup_size(WG)
fn spectral_products_blocks(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                            @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * params.blocks * params.tiles {
        return;
    }
    let at = place(index, lane);
    let first = at.layer * RANK * params.packs + at.column;
    let v = Eight(vt[first], vt[first + params.packs], vt[first + 2u * params.packs], vt[first + 3u * params.packs],
                  vt[first + 4u * params.packs], vt[first + 5u * params.packs], vt[first + 6u * params.packs],
                  vt[first + 7u * params.packs]);
    var a = Eight();
    var square = vec4(0.0);
    for (var step = 0u; step < params.block_rows; step += BATCH) {
        for (var i = 0u; i < BATCH; i++) {
            let row = row_at(at, at.first_row + step + i);
            a = add_outer(a, row);
            square += row.x * row.x;
            put(i, at, row, v);
        }
        finish_rows(at, at.first_row + step);
    }
    store_parts(at, a);
    partial[lane] = square;
    workgroupBarrier();
    if lane == 0u {
        var sum = vec4(0.0);
        for (var i = 0u; i < WG; i++) {
            sum += partial[i];
        }
        squares[(at.matrix * params.blocks + at.block) * params.tiles + at.tile] = pack_sum(sum);
    }
}
