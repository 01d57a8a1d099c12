// What the subgroup kernels of attention share: products of a tile of 4 SG own rows with 16 passing rows.
//
// A workgroup is one subgroup. A lane owns 4 rows of one operand (queries, or keys in dK and dV), so every number below
// is a vec4 over these rows. The other operand passes by in tiles of 16 rows: lanes 0 to 7 load one row each, and all
// lanes get it by broadcast. No workgroup memory and no barrier, which cost most on a software adapter; nothing is
// indexed at run time, so all tiles stay in registers. SG is at least 8.
//
// needs: lib/grid.wgsl, pack, lib/attention_params.wgsl

override SG: u32 = 8;
// Little code, for compilers that take long over much: passing rows and stores go through loops that select by a switch.
override COMPACT: bool = false;

// Rows of a passing tile.
const PASSING: u32 = 16u;
// Columns of an output block, in vec4: one for each of 8 lanes.
const BLOCK: u32 = 8u;

// One number for each passing row (the field) and own row (the component).
struct Tile {
    s0: vec4<f32>,
    s1: vec4<f32>,
    s2: vec4<f32>,
    s3: vec4<f32>,
    s4: vec4<f32>,
    s5: vec4<f32>,
    s6: vec4<f32>,
    s7: vec4<f32>,
    s8: vec4<f32>,
    s9: vec4<f32>,
    s10: vec4<f32>,
    s11: vec4<f32>,
    s12: vec4<f32>,
    s13: vec4<f32>,
    s14: vec4<f32>,
    s15: vec4<f32>,
}

// An output block: 8 x 4 columns; column 4 l + c of the 4 own rows is o_l[c].
struct Columns {
    o0: mat4x4<f32>,
    o1: mat4x4<f32>,
    o2: mat4x4<f32>,
    o3: mat4x4<f32>,
    o4: mat4x4<f32>,
    o5: mat4x4<f32>,
    o6: mat4x4<f32>,
    o7: mat4x4<f32>,
}

// A workgroup's part of the work.
struct Place {
    sequence: u32,
    head: u32,
    // of the output's blocks of columns
    block: u32,
    // first own row in its sequence
    first: u32,
}

fn place(group: vec3<u32>, groups: vec3<u32>, heads: u32) -> Place {
    let index = workgroup_index(group, groups);
    let tiles = (params.seq + 4u * SG - 1u) / (4u * SG);
    let blocks = (params.width + BLOCK - 1u) / BLOCK;
    let head = index / tiles / blocks;
    return Place(head / heads, head % heads, index / tiles % blocks, index % tiles * 4u * SG);
}

// Whether a query sees a key.
fn sees(query: vec4<u32>, key: vec4<u32>) -> vec4<bool> {
    if WINDOWED {
        return (key <= query) & (query < key + params.window);
    }
    return key <= query;
}

// Elements 4 t .. + 4 of four query rows, by element.
fn queries(at: vec4<u32>, t: u32) -> mat4x4<f32> {
    return transpose(mat4x4(wide(q[at.x + t]), wide(q[at.y + t]), wide(q[at.z + t]), wide(q[at.w + t])));
}

// Products of one passing row's 4 elements with those of the own rows, given by element.
fn product(own: mat4x4<f32>, passing: vec4<f32>) -> vec4<f32> {
    return own * passing;
}

// tile += own x passing^T over 4 elements; lane l < 8 has the passing rows l (in a) and 8 + l (in b).
fn multiply(tile: ptr<function, Tile>, own: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) {
    (*tile).s0 += product(own, subgroupBroadcast(a, 0u));
    (*tile).s1 += product(own, subgroupBroadcast(a, 1u));
    (*tile).s2 += product(own, subgroupBroadcast(a, 2u));
    (*tile).s3 += product(own, subgroupBroadcast(a, 3u));
    (*tile).s4 += product(own, subgroupBroadcast(a, 4u));
    (*tile).s5 += product(own, subgroupBroadcast(a, 5u));
    (*tile).s6 += product(own, subgroupBroadcast(a, 6u));
    (*tile).s7 += product(own, subgroupBroadcast(a, 7u));
    (*tile).s8 += product(own, subgroupBroadcast(b, 0u));
    (*tile).s9 += product(own, subgroupBroadcast(b, 1u));
    (*tile).s10 += product(own, subgroupBroadcast(b, 2u));
    (*tile).s11 += product(own, subgroupBroadcast(b, 3u));
    (*tile).s12 += product(own, subgroupBroadcast(b, 4u));
    (*tile).s13 += product(own, subgroupBroadcast(b, 5u));
    (*tile).s14 += product(own, subgroupBroadcast(b, 6u));
    (*tile).s15 += product(own, subgroupBroadcast(b, 7u));
}

// The numbers of the `i`-th passing row.
fn passing_row(s: Tile, i: u32) -> vec4<f32> {
    var row = s.s0;
    switch i {
        case 1u: { row = s.s1; }
        case 2u: { row = s.s2; }
        case 3u: { row = s.s3; }
        case 4u: { row = s.s4; }
        case 5u: { row = s.s5; }
        case 6u: { row = s.s6; }
        case 7u: { row = s.s7; }
        case 8u: { row = s.s8; }
        case 9u: { row = s.s9; }
        case 10u: { row = s.s10; }
        case 11u: { row = s.s11; }
        case 12u: { row = s.s12; }
        case 13u: { row = s.s13; }
        case 14u: { row = s.s14; }
        case 15u: { row = s.s15; }
        default: {}
    }
    return row;
}

// Columns 4 l .. + 4 of an output block, for the `l`-th of its lanes.
fn lane_columns(o: Columns, l: u32) -> mat4x4<f32> {
    var columns = o.o0;
    switch l {
        case 1u: { columns = o.o1; }
        case 2u: { columns = o.o2; }
        case 3u: { columns = o.o3; }
        case 4u: { columns = o.o4; }
        case 5u: { columns = o.o5; }
        case 6u: { columns = o.o6; }
        case 7u: { columns = o.o7; }
        default: {}
    }
    return columns;
}

fn outer(weight: vec4<f32>, row: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(weight * row.x, weight * row.y, weight * row.z, weight * row.w);
}

// o += weight^T x row, for a passing row of which lane l < 8 has the columns 4 l to 4 l + 3.
fn accumulate(o: ptr<function, Columns>, weight: vec4<f32>, row: vec4<f32>) {
    (*o).o0 += outer(weight, subgroupBroadcast(row, 0u));
    (*o).o1 += outer(weight, subgroupBroadcast(row, 1u));
    (*o).o2 += outer(weight, subgroupBroadcast(row, 2u));
    (*o).o3 += outer(weight, subgroupBroadcast(row, 3u));
    (*o).o4 += outer(weight, subgroupBroadcast(row, 4u));
    (*o).o5 += outer(weight, subgroupBroadcast(row, 5u));
    (*o).o6 += outer(weight, subgroupBroadcast(row, 6u));
    (*o).o7 += outer(weight, subgroupBroadcast(row, 7u));
}
