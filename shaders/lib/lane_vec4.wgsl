// The element that row kernels work on: four numbers at once. For rows whose length is a multiple of 4.
alias Lane = vec4<f32>;

fn lane_dot(a: Lane, b: Lane) -> f32 {
    return dot(a, b);
}
