// Integers at their edges, as WGSL defines them, of numbers that no compiler knows.

@group(0) @binding(0) var<storage, read> pairs: array<vec2u>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn division(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= arrayLength(&pairs)) {
        return;
    }
    let p = pairs[id.x];
    let s = bitcast<vec2i>(p);
    let o = id.x * 4u;
    out[o] = p.x / p.y;
    out[o + 1u] = p.x % p.y;
    out[o + 2u] = bitcast<u32>(s.x / s.y);
    out[o + 3u] = bitcast<u32>(s.x % s.y);
}

@compute @workgroup_size(64)
fn shifts(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= arrayLength(&pairs)) {
        return;
    }
    let p = pairs[id.x];
    let by = p.y % 32u;
    let o = id.x * 4u;
    out[o] = p.x << by;
    out[o + 1u] = p.x >> by;
    out[o + 2u] = bitcast<u32>(bitcast<i32>(p.x) >> by);
    out[o + 3u] = p.x * p.y;
}

@compute @workgroup_size(64)
fn bits(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= arrayLength(&pairs)) {
        return;
    }
    let p = pairs[id.x];
    let o = id.x * 8u;
    out[o] = countOneBits(p.x);
    out[o + 1u] = countLeadingZeros(p.x);
    out[o + 2u] = countTrailingZeros(p.x);
    out[o + 3u] = firstLeadingBit(p.x);
    out[o + 4u] = firstTrailingBit(p.x);
    out[o + 5u] = reverseBits(p.x);
    out[o + 6u] = extractBits(p.x, p.y % 32u, 5u);
    out[o + 7u] = insertBits(p.x, 0x15u, p.y % 32u, 5u);
}

@group(0) @binding(2) var<storage, read> floats: array<f32>;

@compute @workgroup_size(64)
fn conversions(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= arrayLength(&floats)) {
        return;
    }
    out[id.x * 2u] = bitcast<u32>(i32(floats[id.x]));
    out[id.x * 2u + 1u] = u32(floats[id.x]);
}
