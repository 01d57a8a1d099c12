// The rows of each expert among those of a launch, which count from `params.row_first`; experts count from `params.expert_first`.

@group(0) @binding(4) var<storage, read> offsets: array<u32>;

// The first row of an expert, and the one after the last, padding included.
fn span_of(expert: u32) -> vec2<u32> {
    let row_end = params.row_first + params.rows;
    let first = clamp(offsets[params.expert_first + expert], params.row_first, row_end);
    let end = clamp(offsets[params.expert_first + expert + 1u], params.row_first, row_end);
    return vec2(first, end) - params.row_first;
}
