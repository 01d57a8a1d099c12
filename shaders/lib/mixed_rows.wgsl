// The gradient of a part of decoupled matrices, on_full gradient + on_common left [right; vt], clipped: for each of ROWS rows of
// `gradient` in turn, `fn moved(i: u32, g: Pack)` of the file that needs this gets the pack's index and the pack. `params` has on_full
// and on_common besides what lib/low_rank.wgsl reads.
//
// needs: lib/low_rank.wgsl, lanes

fn mixed_row(at: Place, r: u32, scale: f32, part: Pack) {
    let row = at.row + r;
    if row >= params.rows {
        return;
    }
    let i = (at.matrix * params.rows + row) * params.packs + at.column;
    var g = params.on_common * part;
    if FULL != 0u {
        g += params.on_full * gradient[i];
    }
    moved(i, scale * g);
}

// Where FULL is 0 the gradient is not read, where COMMON is 0 the factors are not. A gradient that is not finite moves nothing.
fn mixed_rows(at: Place) {
    let sums = low_rank(at);
    if at.inside && clip[2] == 0.0 {
        let scale = clip[1];
        mixed_row(at, 0u, scale, sums.s0);
        mixed_row(at, 1u, scale, sums.s1);
        mixed_row(at, 2u, scale, sums.s2);
        mixed_row(at, 3u, scale, sums.s3);
        mixed_row(at, 4u, scale, sums.s4);
        mixed_row(at, 5u, scale, sums.s5);
        mixed_row(at, 6u, scale, sums.s6);
        mixed_row(at, 7u, scale, sums.s7);
    }
}
