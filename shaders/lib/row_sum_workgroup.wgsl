// Sum over the WG threads of a workgroup (a power of two), in a fixed tree; valid in thread 0. Needs `override WG`.
var<workgroup> row_partial: array<f32, WG>;

fn row_sum(value: f32, lane: u32) -> f32 {
    row_partial[lane] = value;
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            row_partial[lane] += row_partial[lane + width];
        }
    }
    return row_partial[0];
}
