// Subgroup operations. Which threads are in a subgroup, the first one's number tells.

@group(0) @binding(0) var<storage, read_write> where_am_i: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> moved: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> votes: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> floats: array<vec4f>;

override WG: u32 = 64;

fn number(i: u32) -> u32 {
    return (i * 2654435761u) >> 16u;
}

@compute @workgroup_size(WG)
fn operations(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let i = id.x;
    let x = number(i);
    where_am_i[i] = vec4u(size, lane, subgroupBroadcastFirst(i), subgroupBroadcast(i, 1u));
    sums[i] = vec4u(subgroupAdd(x), subgroupInclusiveAdd(x), subgroupExclusiveAdd(x), subgroupMax(x));
    moved[i] = vec4u(
        subgroupShuffle(i, size - 1u - lane),
        subgroupShuffleXor(i, 1u),
        subgroupShuffleUp(i, 1u),
        subgroupShuffleDown(i, 1u),
    );
    let ballot = subgroupBallot((x & 1u) == 1u);
    votes[i] = vec4u(
        select(0u, 1u, subgroupAll(x < 65536u)) + select(0u, 2u, subgroupAny((x & 7u) == 0u)),
        countOneBits(ballot.x) + countOneBits(ballot.y) + countOneBits(ballot.z) + countOneBits(ballot.w),
        subgroupMin(x),
        subgroupOr(x),
    );
    let f = f32(x) - 30000.0;
    floats[i] = vec4f(subgroupMin(f), subgroupMax(f), subgroupAdd(f), subgroupShuffle(f, 0u));
}
