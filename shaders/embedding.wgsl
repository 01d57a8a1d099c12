// Rows of a table by token, and the gradient of the table.
//
// needs: lib/grid.wgsl, lib/token_row.wgsl, pack

override WG: u32 = 64;

const NONE: u32 = 0xffffffffu;

@group(0) @binding(2) var<storage, read> table: array<StoredPack>;
@group(0) @binding(3) var<storage, read_write> y: array<StoredPack>;
@group(0) @binding(4) var<storage, read_write> next_out: array<u32>;
@group(0) @binding(5) var<storage, read_write> head_out: array<u32>;
@group(0) @binding(6) var<storage, read> next: array<u32>;
@group(0) @binding(7) var<storage, read> head: array<u32>;
@group(0) @binding(8) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(9) var<storage, read_write> dtable: array<Pack>;

// The launch with the table's first rows also writes zero where the token is in none of its rows; later ones overwrite.
@compute @workgroup_size(WG)
fn embedding(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
             @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    if i / params.width >= params.tokens {
        return;
    }
    let place = place_in_table(i);
    if place != ELSEWHERE {
        y[i] = table[place];
    } else if params.first == 0u {
        y[i] = StoredPack();
    }
}

// A thread owns one row of the table and links the positions of its token, in ascending order: from head over next.
// All threads read the same token at the same time, and each position is written by the one thread that owns it.
@compute @workgroup_size(WG)
fn embedding_links(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                   @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(group, groups) * WG + lane;
    if row >= params.rows {
        return;
    }
    var last = NONE;
    for (var i = 0u; i < params.tokens; i++) {
        let position = params.tokens - 1u - i;
        if token[position] == params.first + row {
            next_out[position] = last;
            last = position;
        }
    }
    head_out[row] = last;
}

// dtable[row] = sum of dy over the row's positions in ascending order + beta dtable[row]
@compute @workgroup_size(WG)
fn embedding_dtable(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                    @builtin(local_invocation_index) lane: u32) {
    let i = workgroup_index(group, groups) * WG + lane;
    let row = i / params.width;
    if row >= params.rows {
        return;
    }
    var sum = Pack();
    for (var position = head[row]; position < params.tokens; position = next[position]) {
        sum += wide(dy[position * params.width + i % params.width]);
    }
    if params.beta != 0.0 {
        sum += params.beta * dtable[i];
    }
    dtable[i] = sum;
}
