// The rows of experts cut into chunks: the first of each expert, and in slots one after the other those that follow, in the
// experts' order. Rows count from `params.row_first`, experts from `params.expert_first`.

@group(0) @binding(4) var<storage, read> offsets: array<u32>;

// The first row of an expert among those of the launch, and the one after the last, padding included.
fn span_of(expert: u32) -> vec2<u32> {
    let row_end = params.row_first + params.rows;
    let first = clamp(offsets[params.expert_first + expert], params.row_first, row_end);
    let end = clamp(offsets[params.expert_first + expert + 1u], params.row_first, row_end);
    return vec2(first, end) - params.row_first;
}

struct Slot {
    // Whether a chunk is in it.
    used: bool,
    expert: u32,
    // Which of the expert's chunks that is, from 1 on, and the last of them.
    chunk: u32,
    last: u32,
}

fn chunk_in(slot: u32) -> Slot {
    var before = 0u;
    for (var expert = 0u; expert < params.experts; expert++) {
        let span = span_of(expert);
        let last = (max(span.y - span.x, 1u) - 1u) / params.chunk_rows;
        if slot < before + last {
            return Slot(true, expert, slot - before + 1u, last);
        }
        before += last;
    }
    return Slot(false, 0u, 0u, 0u);
}
