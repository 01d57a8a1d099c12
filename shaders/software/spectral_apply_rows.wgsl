// Adds a common part to decoupled matrices, with ROWS = 32.
//
// needs: lib/grid.wgsl, oct, software/eight_rows.wgsl

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<StoredOct>;
@group(0) @binding(2) var<storage, read> left: array<StoredOct>;
@group(0) @binding(3) var<storage, read> right: array<StoredOct>;
@group(0) @binding(4) var<storage, read> vt: array<StoredOct>;
@group(0) @binding(5) var<storage, read> clip: array<f32>;

fn factors(at: Place, row: u32) -> Pair {
    let i = (at.matrix * params.rows + row) * 2u;
    let a = oct(left[i]);
    let b = oct(left[i + 1u]);
    return Pair(Oct(params.on_common * a.low, params.on_common * a.high), Oct(params.on_common * b.low, params.on_common * b.high));
}

fn move_oct(i: u32, inside: bool, f: Pair, columns: Columns, failed: bool) {
    let old = weight[i];
    let w = oct(old);
    let part = expand_pair(f, columns);
    let next = Oct(w.low - params.decay * w.low + part.low, w.high - params.decay * w.high + part.high);
    if inside || !ROW_TAIL {
        weight[i] = replaced(old, next, failed);
    }
}

fn touch(first: u32) -> u32 {
    var bits = 0u;
    for (var i = 0u; i < PAGES; i++) {
        bits |= touched(weight[page(first, i)]);
    }
    return bits;
}

// weight += on_common left [right; vt] - decay weight
@compute @workgroup_size(WG)
fn spectral_apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.matrices * blocks_of_rows() {
        return;
    }
    // A gradient that is not finite changes nothing.
    let failed = clip[2] != 0.0;
    let at = place(index, lane);
    let f0 = factors(at, at.near.at.x);
    let f1 = factors(at, at.near.at.y);
    let f2 = factors(at, at.near.at.z);
    let f3 = factors(at, at.near.at.w);
    let first = (vec4(at.matrix * params.rows) + at.near.at) * params.octs;
    let a_first = (at.matrix * 8u + lane) * params.octs;
    let v_first = (at.layer * 8u + lane) * params.octs;
    let begin = unused(touch(first.x) | touch(first.y) | touch(first.z) | touch(first.w));
    for (var i = begin; i < params.octs; i++) {
        let a = oct(right[a_first + i]);
        let v = oct(vt[v_first + i]);
        let columns = Columns(spread(a.low), spread(a.high), spread(v.low), spread(v.high));
        move_oct(first.x + i, at.near.inside.x, f0, columns, failed);
        move_oct(first.y + i, at.near.inside.y, f1, columns, failed);
        move_oct(first.z + i, at.near.inside.z, f2, columns, failed);
        move_oct(first.w + i, at.near.inside.w, f3, columns, failed);
    }
}
