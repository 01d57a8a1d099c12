// Rotary position embedding: turns the pairs of each head by position * frequency.
//
// Angles are fractions of a turn in 32-bit fixed point, where whole turns vanish by wrap-around: the error is a rounding
// of 2^-32 turns at any position, and no hardware sine of unknown accuracy is used. A frequency is a 64-bit fraction of a
// turn a position, (high, low); Rust computes them.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(3) var<storage, read> frequencies: array<vec2<u32>>;

// Whether the pairs are (2i, 2i + 1), else they are (i, i + head_dim / 2).
override NEIGHBOURS: bool = false;

// 2 pi / 2^32
const RADIANS: f32 = 1.4629180792671596e-9;

// The product of two 32-bit integers: high and low half.
fn multiply(a: u32, b: u32) -> vec2<u32> {
    let cross = (a >> 16u) * (b & 0xffffu) + (((a & 0xffffu) * (b & 0xffffu)) >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (cross & 0xffffu);
    return vec2((a >> 16u) * (b >> 16u) + (cross >> 16u) + (other >> 16u), a * b);
}

// Cosine and sine of the angle of pair i: Taylor polynomials, corrected (Cephes sinf, cosf), on an eighth of a turn.
fn cos_sin(position: u32, i: u32) -> vec2<f32> {
    let f = frequencies[i];
    let phase = position * f.x + multiply(position, f.y).x;
    let quarter = (phase + 0x20000000u) >> 30u;
    let a = f32(bitcast<i32>(phase - (quarter << 30u))) * RADIANS;
    let a2 = a * a;
    let s = a + a * a2 * (-1.6666654611e-1 + a2 * (8.3321608736e-3 - a2 * 1.9515295891e-4));
    let c = 1.0 - 0.5 * a2 + a2 * a2 * (4.166664568298827e-2 + a2 * (-1.388731625493765e-3 + a2 * 2.443315711809948e-5));
    let turned = select(vec2(c, s), vec2(-s, c), (quarter & 1u) != 0u);
    return select(turned, -turned, (quarter & 2u) != 0u);
}

// A thread turns one pack of pairs in all heads of a row.
@compute @workgroup_size(WG)
fn rope(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups) * WG + lane;
    let row = index / params.half;
    let column = index % params.half;
    if row >= params.rows {
        return;
    }
    let position = (params.first + row) % params.seq + params.offset;
    var c = Pack();
    var s = Pack();
    for (var i = column * PACK; i < (column + 1u) * PACK; i++) {
        let turn = cos_sin(position, i);
        c += turn.x * pack_one(i, column * PACK);
        s += turn.y * pack_one(i, column * PACK);
    }
    c *= params.cosine;
    s *= params.sine;
    // Where the pairs' packs are: their first elements in one and their second in the other, or all of them in two.
    let begin = select(column, 2u * column, NEIGHBOURS);
    let step = select(params.half, 1u, NEIGHBOURS);
    for (var head = 0u; head < params.heads; head++) {
        let at = (row * params.heads + head) * 2u * params.half + begin;
        let low = wide(x[at]);
        let high = wide(x[at + step]);
        var a = low;
        var b = high;
        if NEIGHBOURS {
            a = pack_evens(low, high);
            b = pack_odds(low, high);
        }
        var first = a * c - b * s;
        var second = b * c + a * s;
        if NEIGHBOURS {
            let even = first;
            first = pack_zip_low(even, second);
            second = pack_zip_high(even, second);
        }
        if params.beta != 0.0 {
            first += params.beta * wide(y[at]);
            second += params.beta * wide(y[at + step]);
        }
        y[at] = narrow(first);
        y[at + step] = narrow(second);
    }
}
