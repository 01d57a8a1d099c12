// AdamW's moments and direction (Loshchilov and Hutter, arXiv 1711.05101), the decay apart. `params` has the fields
// beta1, beta2, rest1 = 1 - beta1, rest2 = 1 - beta2, root = (1 - beta1^t) / sqrt(1 - beta2^t) and eps, which holds the factor 1 -
// beta1^t too: the corrections of both moments. Kernels have a `clip`: the global gradient norm, the factor on the gradient, and
// whether the norm is not finite.
//
// needs: lanes

struct Adam {
    direction: Pack,
    mean: Pack,
    square: Pack,
}

// `gradient` is already clipped.
fn adam(gradient: Pack, old_mean: Pack, old_square: Pack) -> Adam {
    let mean = params.beta1 * old_mean + params.rest1 * gradient;
    let square = params.beta2 * old_square + params.rest2 * gradient * gradient;
    return Adam(mean / (params.root * sqrt(square) + Pack(params.eps)), mean, square);
}
