// AdamW's moments and direction (Loshchilov and Hutter, arXiv 1711.05101), the decay apart. Needs lib/pack*.wgsl, `params` with the fields
// beta1, beta2, rest1 = 1 - beta1, rest2 = 1 - beta2, correct1 = 1 / (1 - beta1^t), correct2 and eps. Kernels have a `clip`: the
// global gradient norm, the factor on the gradient, and whether the norm is not finite.

struct Adam {
    direction: Pack,
    mean: Pack,
    square: Pack,
}

// `gradient` is already clipped.
fn adam(gradient: Pack, old_mean: Pack, old_square: Pack) -> Adam {
    let mean = params.beta1 * old_mean + params.rest1 * gradient;
    let square = params.beta2 * old_square + params.rest2 * gradient * gradient;
    let root = sqrt(params.correct2 * square) + Pack(params.eps);
    return Adam(params.correct1 * mean / root, mean, square);
}
