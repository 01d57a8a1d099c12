// Rotary position embedding: turns the pairs (i, i + head_dim / 2) of each head by position * theta^(-2 i / head_dim).
//
// Angles are fractions of a turn in 32-bit fixed point, where whole turns vanish by wrap-around: the error is a rounding
// of 2^-32 turns at any position, and no hardware sine of unknown accuracy is used. A frequency is a 64-bit fraction of a
// turn a position: theta^(-2 i / head_dim) / 2 pi is the product, over the bits b of i, of the power 2^b of
// theta^(-2 / head_dim), which Rust computes in f64.
//
// needs: lib/grid.wgsl, pack

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<StoredPack>;
@group(0) @binding(2) var<storage, read_write> y: array<StoredPack>;

// 1 / (2 pi) as a 64-bit fraction.
const PER_TURN = vec2<u32>(0x28be60dbu, 0x9391054au);
// 2 pi / 2^32
const RADIANS: f32 = 1.4629180792671596e-9;

// The product of two 32-bit integers: high and low half.
fn multiply(a: u32, b: u32) -> vec2<u32> {
    let cross = (a >> 16u) * (b & 0xffffu) + (((a & 0xffffu) * (b & 0xffffu)) >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (cross & 0xffffu);
    return vec2((a >> 16u) * (b >> 16u) + (cross >> 16u) + (other >> 16u), a * b);
}

// The product of two 64-bit fractions (high, low), to a few units in the last place.
fn multiply_fractions(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let top = multiply(a.x, b.x);
    let middle = top.y + multiply(a.x, b.y).x;
    let low = middle + multiply(a.y, b.x).x;
    return vec2(top.x + u32(middle < top.y) + u32(low < middle), low);
}

fn frequency(i: u32) -> vec2<u32> {
    var f = PER_TURN;
    if (i & 1u) != 0u { f = multiply_fractions(f, vec2(params.high_0, params.low_0)); }
    if (i & 2u) != 0u { f = multiply_fractions(f, vec2(params.high_1, params.low_1)); }
    if (i & 4u) != 0u { f = multiply_fractions(f, vec2(params.high_2, params.low_2)); }
    if (i & 8u) != 0u { f = multiply_fractions(f, vec2(params.high_3, params.low_3)); }
    if (i & 16u) != 0u { f = multiply_fractions(f, vec2(params.high_4, params.low_4)); }
    if (i & 32u) != 0u { f = multiply_fractions(f, vec2(params.high_5, params.low_5)); }
    return f;
}

// Cosine and sine of the angle of pair i: Taylor polynomials, corrected (Cephes sinf, cosf), on an eighth of a turn.
fn cos_sin(position: u32, i: u32) -> vec2<f32> {
    let f = frequency(i);
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
    let position = (params.first + row) % params.seq;
    var c = Pack();
    var s = Pack();
    for (var i = column * PACK; i < (column + 1u) * PACK; i++) {
        let turn = cos_sin(position, i);
        c += turn.x * pack_one(i, column * PACK);
        s += turn.y * pack_one(i, column * PACK);
    }
    s *= params.direction;
    for (var head = 0u; head < params.heads; head++) {
        let at = (row * params.heads + head) * 2u * params.half + column;
        let a = wide(x[at]);
        let b = wide(x[at + params.half]);
        var first = a * c - b * s;
        var second = b * c + a * s;
        if params.beta != 0.0 {
            first += params.beta * wide(y[at]);
            second += params.beta * wide(y[at + params.half]);
        }
        y[at] = narrow(first);
        y[at + params.half] = narrow(second);
    }
}
