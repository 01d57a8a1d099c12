// GELU in its tanh form: x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).
const SCALE: f32 = 0.7978845608;

// Beyond 10 tanh is 1 in f32, and some drivers' tanh overflows.
fn tanh_of(x: f32) -> f32 {
    return tanh(clamp(SCALE * (x + 0.044715 * x * x * x), -10.0, 10.0));
}

fn value(x: f32) -> f32 {
    return 0.5 * x * (1.0 + tanh_of(x));
}

fn derivative(x: f32) -> f32 {
    let t = tanh_of(x);
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SCALE * (1.0 + 3.0 * 0.044715 * x * x);
}
