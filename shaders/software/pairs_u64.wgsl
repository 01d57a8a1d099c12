// u64 that are two f32 each, the first in the low half.

fn unpack(pair: u64) -> vec2<f32> {
    return vec2(bitcast<f32>(u32(pair)), bitcast<f32>(u32(pair >> 32u)));
}

fn pack(pair: vec2<f32>) -> u64 {
    return u64(bitcast<u32>(pair.x)) | (u64(bitcast<u32>(pair.y)) << 32u);
}

fn quad(pairs: vec2<u64>) -> vec4<f32> {
    return vec4(unpack(pairs.x), unpack(pairs.y));
}
