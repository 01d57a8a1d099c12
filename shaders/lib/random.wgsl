// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011), and numbers made of its words by exact operations only, so that every device and src/linalg/random.rs get the
// same bits.

// High 32 bits of a product: WGSL has no 64-bit product, so from 16-bit halves.
fn multiply_high(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 16u);
    let cross = a0 * b1 + (middle & 0xffffu);
    return a1 * b1 + (middle >> 16u) + (cross >> 16u);
}

fn philox(start: vec4<u32>, start_key: vec2<u32>) -> vec4<u32> {
    var counter = start;
    var key = start_key;
    for (var round = 0u; round < 10u; round++) {
        let high0 = multiply_high(0xD2511F53u, counter.x);
        let low0 = 0xD2511F53u * counter.x;
        let high1 = multiply_high(0xCD9E8D57u, counter.z);
        let low1 = 0xCD9E8D57u * counter.z;
        counter = vec4<u32>(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter;
}

// The four words of block `index` of a stream.
fn random_words(key: vec2<u32>, stream: u32, index: u32) -> vec4<u32> {
    return philox(vec4<u32>(index, stream, 0u, 0u), key);
}

// Uniform in [0, 1): a multiple of 2^-24, exact.
fn unit_interval(word: u32) -> f32 {
    return f32(word >> 8u) * 5.9604645e-8;
}

// Number `index` of a stream of standard normal numbers: 96 coin flips (a popcount) plus two uniforms of 16 bits, which
// join the binomial's steps by straight lines. In units of 2^-16 the sum is a whole number below 2^23, so it is exact;
// its mean is exactly 48 * 65536 + 65535, its variance 24 + (1 - 2^-32) / 6. One correctly rounded product scales it.
// Range +-9.97, excess kurtosis -0.021.
fn random_normal(key: vec2<u32>, stream: u32, index: u32) -> f32 {
    let words = philox(vec4<u32>(index, stream, 1u, 0u), key);
    let flips = countOneBits(words.x) + countOneBits(words.y) + countOneBits(words.z);
    let sum = i32((flips << 16u) + (words.w & 0xffffu) + (words.w >> 16u)) - 3211263;
    // 1 / (65536 sqrt(24 + 1/6))
    return f32(sum) * 3.1039283e-6;
}
