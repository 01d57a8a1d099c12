// From chosen experts to rows grouped by expert: a stable counting sort of the pairs (token, choice) by expert, in
// integers, without atomics.
//
// Pairs are cut into blocks of `block_pairs`, blocks into spans of `span_blocks`. One thread walks a block and counts
// each expert's pairs (the count so far is the pair's rank); two levels of scans turn the counts into first rows.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

const NONE: u32 = 0xffffffffu;
// The most experts there can be.
const EXPERTS: u32 = 1024u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> index: array<u32>;             // [pairs]
@group(0) @binding(2) var<storage, read_write> rank: array<u32>;        // [pairs]
@group(0) @binding(3) var<storage, read_write> blocks: array<u32>;      // [blocks, E]
@group(0) @binding(4) var<storage, read_write> spans: array<u32>;       // [all spans, E]
@group(0) @binding(5) var<storage, read_write> counts: array<u32>;      // [E]
@group(0) @binding(6) var<storage, read_write> offsets: array<u32>;     // [E + 1]
@group(0) @binding(7) var<storage, read_write> slot: array<u32>;        // [pairs]
@group(0) @binding(8) var<storage, read_write> source: array<u32>;      // [rows]
@group(0) @binding(9) var<storage, read_write> tile_expert: array<u32>; // [rows / tile_rows]

// rank = the pair's rank among its block's pairs of the same expert; blocks = the block's pairs of each expert.
@compute @workgroup_size(WG)
fn routing_rank(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let block = workgroup_index(group, groups) * WG + lane;
    let first = block * params.block_pairs;
    if first >= params.pairs {
        return;
    }
    let row = block * params.experts;
    for (var e = 0u; e < params.experts; e++) {
        blocks[row + e] = 0u;
    }
    let last = min(first + params.block_pairs, params.pairs);
    for (var pair = first; pair < last; pair++) {
        let cell = row + index[pair];
        let count = blocks[cell];
        rank[pair] = count;
        blocks[cell] = count + 1u;
    }
}

// blocks = exclusive sums within the span; spans = the span's pairs of each expert. One (span, expert) a thread.
@compute @workgroup_size(WG)
fn routing_scan_blocks(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                       @builtin(local_invocation_index) lane: u32) {
    let cell = workgroup_index(group, groups) * WG + lane;
    let block_count = (params.pairs + params.block_pairs - 1u) / params.block_pairs;
    let span = cell / params.experts;
    let expert = cell % params.experts;
    let first = span * params.span_blocks;
    if first >= block_count {
        return;
    }
    let last = min(first + params.span_blocks, block_count);
    var sum = 0u;
    for (var block = first; block < last; block++) {
        let count = blocks[block * params.experts + expert];
        blocks[block * params.experts + expert] = sum;
        sum += count;
    }
    let first_span = params.first_pair / (params.block_pairs * params.span_blocks);
    spans[(first_span + span) * params.experts + expert] = sum;
}

var<workgroup> totals: array<u32, EXPERTS>;

// spans = exclusive sums over the spans; counts; offsets = exclusive sums of the counts, each rounded up to whole tiles.
// `pairs` is the number of all pairs. One workgroup.
@compute @workgroup_size(WG)
fn routing_scan_experts(@builtin(local_invocation_index) lane: u32) {
    let span_pairs = params.block_pairs * params.span_blocks;
    let span_count = (params.pairs + span_pairs - 1u) / span_pairs;
    for (var expert = lane; expert < params.experts; expert += WG) {
        var sum = 0u;
        for (var span = 0u; span < span_count; span++) {
            let count = spans[span * params.experts + expert];
            spans[span * params.experts + expert] = sum;
            sum += count;
        }
        counts[expert] = sum;
        totals[expert] = sum;
    }
    workgroupBarrier();
    if lane == 0u {
        var row = 0u;
        for (var expert = 0u; expert < params.experts; expert++) {
            offsets[expert] = row;
            row += (totals[expert] + params.tile_rows - 1u) / params.tile_rows * params.tile_rows;
        }
        offsets[params.experts] = row;
    }
}

// tile_expert; source = NONE everywhere. One row a thread.
@compute @workgroup_size(WG)
fn routing_tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(group, groups) * WG + lane;
    if row >= params.rows {
        return;
    }
    source[row] = NONE;
    if row % params.tile_rows != 0u {
        return;
    }
    // The number of offsets that are <= this row, minus 1, is its expert: experts without rows are stepped over.
    var low = 0u;
    var high = params.experts + 1u;
    while low < high {
        let middle = (low + high) / 2u;
        if offsets[middle] <= params.first_row + row {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    tile_expert[row / params.tile_rows] = select(low - 1u, NONE, low > params.experts);
}

// slot = first row of the expert + pairs of it before this one; source is the inverse. One pair a thread.
@compute @workgroup_size(WG)
fn routing_place(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let pair = workgroup_index(group, groups) * WG + lane;
    if pair >= params.pairs {
        return;
    }
    let expert = index[pair];
    let block = pair / params.block_pairs;
    let span = (params.first_pair / params.block_pairs + block) / params.span_blocks;
    let before = spans[span * params.experts + expert] + blocks[block * params.experts + expert] + rank[pair];
    let row = offsets[expert] + before;
    slot[pair] = row;
    // A row before the first wraps around and is past the end, too.
    if row - params.first_row < params.rows {
        source[row - params.first_row] = params.first_pair + pair;
    }
}
