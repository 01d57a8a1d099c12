// What a driver does with numbers for which WGSL leaves it free; told, not judged.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

// x: NaN, -0, a denormal, infinity, 1, the largest number, 0.
@compute @workgroup_size(1)
fn special() {
    let nan = x[0];
    let tiny = x[2];
    let infinite = x[3];
    let one = x[4];
    let large = x[5];
    out[0] = select(0u, 1u, nan != nan);
    out[1] = bitcast<u32>(nan * one);
    out[2] = bitcast<u32>(min(nan, one));
    out[3] = bitcast<u32>(max(nan, one));
    out[4] = bitcast<u32>(x[1] * one);
    out[5] = bitcast<u32>(tiny * one);
    out[6] = bitcast<u32>(tiny + tiny);
    out[7] = bitcast<u32>(infinite * one);
    out[8] = bitcast<u32>(infinite - infinite);
    out[9] = bitcast<u32>(large * large);
    out[10] = bitcast<u32>(one / x[6]);
    out[11] = bitcast<u32>(sqrt(-one));
    out[12] = bitcast<u32>(clamp(nan, -one, one));
    out[13] = select(0u, 1u, infinite > large);
    out[14] = bitcast<u32>(fma(one + 0x1p-23, one - 0x1p-23, -one));
    out[15] = bitcast<u32>(x[2]);
}

@group(0) @binding(2) var<storage, read_write> unpacked: array<vec2f>;

// Every f16 there is, two at a time.
@compute @workgroup_size(64)
fn unpack(@builtin(global_invocation_id) id: vec3u) {
    unpacked[id.x] = unpack2x16float(id.x * 0x20000u + 0x10000u + id.x * 2u);
}

@group(0) @binding(3) var<storage, read> wide: array<vec2f>;

@compute @workgroup_size(64)
fn pack(@builtin(global_invocation_id) id: vec3u) {
    out[id.x] = pack2x16float(wide[id.x]);
}

// Products, sums, quotients and roots of ordinary numbers.
@compute @workgroup_size(64)
fn arithmetic(@builtin(global_invocation_id) id: vec3u) {
    let p = wide[id.x];
    let o = id.x * 8u;
    out[o] = bitcast<u32>(p.x * p.y);
    out[o + 1u] = bitcast<u32>(p.x + p.y);
    out[o + 2u] = bitcast<u32>(p.x - p.y);
    out[o + 3u] = bitcast<u32>(p.x / p.y);
    out[o + 4u] = bitcast<u32>(sqrt(abs(p.x)));
    out[o + 5u] = bitcast<u32>(exp(p.x));
    out[o + 6u] = bitcast<u32>(log(abs(p.x) + 1.5));
    out[o + 7u] = bitcast<u32>(floor(p.x) + fract(p.x));
}
