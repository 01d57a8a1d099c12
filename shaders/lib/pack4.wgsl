// Four neighbouring elements at a time: vec4 loads run twice as fast as scalar ones on software adapters.
alias Pack = vec4<f32>;
const WIDTH: u32 = 4u;

fn pack_sum(x: Pack) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
