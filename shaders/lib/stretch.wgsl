// Which elements of a flat array a thread takes.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;
// Elements of a thread, and whether they are neighbours. So software adapters wait least for memory: a load touches as many
// cache lines as a workgroup has threads, and the next loads use them up. On GPUs neighbouring threads take neighbours.
override ITEMS: u32 = 1;
override STRETCHES: bool = false;

struct Stretch {
    start: u32,
    end: u32,
}

// To be walked in steps of `stretch_step()`.
fn stretch(group: vec3<u32>, groups: vec3<u32>, lane: u32, count: u32) -> Stretch {
    let first = workgroup_index(group, groups) * WG * ITEMS;
    return Stretch(first + select(lane, lane * ITEMS, STRETCHES),
                   min(first + select(WG, lane + 1u, STRETCHES) * ITEMS, count));
}

fn stretch_step() -> u32 {
    return select(WG, 1u, STRETCHES);
}
