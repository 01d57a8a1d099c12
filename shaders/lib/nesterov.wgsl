// Nesterov's momentum. `params` has the field momentum.
//
// needs: lanes

struct Nesterov {
    mixed: Pack,
    mean: Pack,
}

// `gradient` is already clipped.
fn nesterov(gradient: Pack, old_mean: Pack) -> Nesterov {
    let mean = params.momentum * old_mean + gradient;
    return Nesterov(params.momentum * mean + gradient, mean);
}
