// The element that row kernels work on: one number. For rows of any length.
alias Lane = f32;

fn lane_dot(a: Lane, b: Lane) -> f32 {
    return a * b;
}
