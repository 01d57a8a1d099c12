// What all attention kernels are given. Needs lib/pack_vec4.wgsl or lib/pack_scalar.wgsl, or another fragment with
// their functions.

struct Params {
    sequences: u32,
    seq: u32,
    heads: u32,
    kv_heads: u32,
    // of a head of q and k, in packs
    width: u32,
    // of a head of v and y, likewise
    value_width: u32,
    // for dk and dv: of the query heads that share a key's head, those to sum over
    share_first: u32,
    share_last: u32,
    // of the scores, in powers of 2: log2(e) / sqrt(head_dim)
    scale: f32,
    // 1 / sqrt(head_dim)
    scale_out: f32,
    // of the gradients that were there
    beta: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<StoredPack>;
@group(0) @binding(2) var<storage, read> k: array<StoredPack>;
@group(0) @binding(3) var<storage, read> v: array<StoredPack>;
