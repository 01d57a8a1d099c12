// Four bf16 in two words, the first in the lower half of the first word. A bf16 is the upper half of an f32, so nothing is asked of the
// device.

alias FourBf16 = vec2<u32>;

fn wide_bf16(four: FourBf16) -> vec4<f32> {
    let upper = four & vec2(0xffff0000u);
    let lower = four << vec2(16u);
    return bitcast<vec4<f32>>(vec4(lower.x, upper.x, lower.y, upper.y));
}
