// What all attention kernels are given.
//
// needs: pack

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<StoredPack>;
@group(0) @binding(2) var<storage, read> k: array<StoredPack>;
@group(0) @binding(3) var<storage, read> v: array<StoredPack>;
