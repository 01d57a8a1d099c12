// One element at a time, for rows that do not divide by 4.
alias Pack = f32;
const WIDTH: u32 = 1u;

fn pack_sum(x: Pack) -> f32 {
    return x;
}
