// The rows of experts cut into chunks: the first of each expert, and in slots one after the other those that follow, in the
// experts' order.
//
// needs: lib/expert_rows.wgsl

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
