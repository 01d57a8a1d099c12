// The scores of each token's experts, with those outside its groups of largest value lowered below all others but those that
// are switched off, which are lower still; one token a thread.
//
// needs: lib/grid.wgsl

override WG: u32 = 64;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> chosen: array<f32>;

// As `GroupChoice::groups` allows.
const MOST_GROUPS: u32 = 64u;

const LOWEST: f32 = -3.4028234663852886e38;

fn score(row: u32, expert: u32) -> f32 {
    var value = scores[row + expert];
    if params.biased != 0u {
        value += bias[expert];
    }
    return value;
}

// The largest score of a group, or the sum of its two largest.
fn group_value(row: u32, group: u32) -> f32 {
    let size = params.experts / params.groups;
    var first = LOWEST;
    var second = LOWEST;
    for (var e = group * size; e < (group + 1u) * size; e++) {
        let value = score(row, e);
        if value > first {
            second = first;
            first = value;
        } else if value > second {
            second = value;
        }
    }
    return select(first, first + second, params.two != 0u);
}

@compute @workgroup_size(WG)
fn routing_groups(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                  @builtin(local_invocation_index) lane: u32) {
    let token = workgroup_index(group, groups) * WG + lane;
    if token >= params.tokens {
        return;
    }
    let row = token * params.experts;
    let size = params.experts / params.groups;
    var values: array<f32, MOST_GROUPS>;
    for (var g = 0u; g < params.groups; g++) {
        values[g] = group_value(row, g);
    }
    for (var g = 0u; g < params.groups; g++) {
        let value = values[g];
        // The groups that come before this one.
        var before = 0u;
        for (var other = 0u; other < params.groups; other++) {
            let theirs = values[other];
            before += u32(theirs > value || (theirs == value && other < g));
        }
        for (var e = g * size; e < (g + 1u) * size; e++) {
            let value = score(row, e);
            chosen[row + e] = select(min(params.outside, value), value, before < params.kept);
        }
    }
}
