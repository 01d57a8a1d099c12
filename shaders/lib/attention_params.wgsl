// What all attention kernels are given.
//
// needs: pack

// Whether a query sees only the params.window keys up to its own position, else all of them.
override WINDOWED: bool = false;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<StoredPack>;
@group(0) @binding(2) var<storage, read> k: array<StoredPack>;
@group(0) @binding(3) var<storage, read> v: array<StoredPack>;

// The first of `tile` keys in succession that the query at `first` sees one of.
fn first_key(first: u32, tile: u32) -> u32 {
    if WINDOWED {
        return (max(first + 1u, params.window) - params.window) / tile * tile;
    }
    return 0u;
}

// The end of the queries that see one of `tile` keys from `first` on.
fn end_of_queries(first: u32, tile: u32) -> u32 {
    if WINDOWED {
        return min(params.seq, first + tile - 1u + params.window);
    }
    return params.seq;
}
