// The workgroup memory of gemm/cooperative.wgsl in fours of elements.

var<workgroup> a_part: array<vec4<f16>, A_FOURS>;
var<workgroup> b_part: array<vec4<f16>, B_FOURS>;
var<workgroup> sum_part: array<vec4<f32>, SUM_FOURS>;

fn put_a(at: u32, four: vec4<f16>) {
    a_part[at] = four;
}

fn put_b(at: u32, four: vec4<f16>) {
    b_part[at] = four;
}

fn four_of_sums(at: u32) -> vec4<f32> {
    return sum_part[at];
}
