// Products of rank 8 with a matrix, by subgroups of eight lanes. An oct is eight columns of a row, or of a factor of rank
// 8 one row: a number for each direction. `params` has the fields matrices, rows, octs (of a row) and experts (matrices of a layer).
//
// A workgroup is a subgroup and takes a block of WALKS times ROWS rows, ROWS after ROWS: lane l has the rows l, 8 + l, 16 + l,
// 24 + l of ROWS (of 16 the first two), and all lanes walk along their rows together. So a load touches eight cache lines at
// once, and the next loads use them up. With the lanes along the columns of a block of rows a load touches two, which software
// adapters wait for: a third of the speed.
//
// What belongs to the columns (an oct of each of the eight rows of V^T, say) is loaded once for all its rows, one oct a lane,
// and reaches the lanes by broadcasts; what belongs to a lane's rows stays in registers for the whole walk. Arithmetic is on
// four columns at a time.
//
// needs: lib/grid.wgsl, oct

// Lanes of a subgroup, and the rank.
override WG: u32 = 8u;
// Rows of a walk: 16 or 32, as the kernel says.
override ROWS: u32 = 32u;
// Walks of a workgroup, one after the other: more than one where the kernel has a loop for them.
override WALKS: u32 = 1u;
// The number of rows is no multiple of those: what is past the last repeats it, with weight zero, and is not stored.
override ROW_TAIL: bool = false;

// Four rows of a lane within a matrix, and which of them are inside.
struct Rows {
    at: vec4<u32>,
    inside: vec4<bool>,
}

struct Place {
    matrix: u32,
    layer: u32,
    // Block of rows, counted over all matrices.
    block: u32,
    // The block's first row within the matrix.
    first: u32,
    // Of the first walk.
    near: Rows,
}

fn blocks_of_rows() -> u32 {
    return (params.rows + ROWS * WALKS - 1u) / (ROWS * WALKS);
}

fn rows_from(first: u32) -> Rows {
    let rows = vec4(first) + vec4(0u, 8u, 16u, 24u);
    if ROW_TAIL {
        return Rows(min(rows, vec4(params.rows - 1u)), rows < vec4(params.rows));
    }
    return Rows(rows, vec4(true));
}

// The experts of a layer share what belongs to it, so the same rows of all of them follow each other.
fn place(index: u32, lane: u32) -> Place {
    let blocks = blocks_of_rows();
    let experts = min(params.experts, params.matrices);
    let layer = index / (experts * blocks);
    let block = index / experts % blocks;
    let matrix = layer * experts + index % experts;
    let first = block * ROWS * WALKS;
    return Place(matrix, layer, matrix * blocks + block, first, rows_from(first + lane));
}

// A vec4 for each direction, the same in all lanes.
struct Eight {
    v0: vec4<f32>,
    v1: vec4<f32>,
    v2: vec4<f32>,
    v3: vec4<f32>,
    v4: vec4<f32>,
    v5: vec4<f32>,
    v6: vec4<f32>,
    v7: vec4<f32>,
}

// `own` of lane j is the vec4 of direction j.
fn spread(own: vec4<f32>) -> Eight {
    return Eight(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u),
                 subgroupBroadcast(own, 3u), subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u),
                 subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u));
}

// row . e: four columns of a row of a product of rank 8.
fn expand(row: Oct, e: Eight) -> vec4<f32> {
    return expand_onto(row.low.x * e.v0, row, e);
}

// sum + row . e, the first direction apart.
fn expand_onto(sum: vec4<f32>, row: Oct, e: Eight) -> vec4<f32> {
    let low = fma(vec4(row.low.w), e.v3, fma(vec4(row.low.z), e.v2, fma(vec4(row.low.y), e.v1, sum)));
    return fma(vec4(row.high.w), e.v7, fma(vec4(row.high.z), e.v6, fma(vec4(row.high.y), e.v5, fma(vec4(row.high.x), e.v4, low))));
}

// sum + x . e for each direction: what four columns of a row add to its products.
fn reduce(sum: Oct, x: vec4<f32>, e: Eight) -> Oct {
    var low = fma(vec4(e.v0.x, e.v1.x, e.v2.x, e.v3.x), vec4(x.x), sum.low);
    low = fma(vec4(e.v0.y, e.v1.y, e.v2.y, e.v3.y), vec4(x.y), low);
    low = fma(vec4(e.v0.z, e.v1.z, e.v2.z, e.v3.z), vec4(x.z), low);
    low = fma(vec4(e.v0.w, e.v1.w, e.v2.w, e.v3.w), vec4(x.w), low);
    var high = fma(vec4(e.v4.x, e.v5.x, e.v6.x, e.v7.x), vec4(x.x), sum.high);
    high = fma(vec4(e.v4.y, e.v5.y, e.v6.y, e.v7.y), vec4(x.y), high);
    high = fma(vec4(e.v4.z, e.v5.z, e.v6.z, e.v7.z), vec4(x.z), high);
    high = fma(vec4(e.v4.w, e.v5.w, e.v6.w, e.v7.w), vec4(x.w), high);
    return Oct(low, high);
}

// Four columns of the lane's four rows.
struct Four {
    x0: vec4<f32>,
    x1: vec4<f32>,
    x2: vec4<f32>,
    x3: vec4<f32>,
}

// An oct for each of a lane's four rows.
struct FourRows {
    r0: Oct,
    r1: Oct,
    r2: Oct,
    r3: Oct,
}

fn lows(x: FourRows) -> Four {
    return Four(x.r0.low, x.r1.low, x.r2.low, x.r3.low);
}

fn highs(x: FourRows) -> Four {
    return Four(x.r0.high, x.r1.high, x.r2.high, x.r3.high);
}

fn exchange(a: vec4<f32>, b: vec4<f32>, bit: u32, lane: u32) -> vec4<f32> {
    let high = (lane & bit) != 0u;
    return select(a, b, high) + subgroupShuffleXor(select(b, a, high), bit);
}

// The sum of p_j over all lanes, in lane j: each exchange halves the sums that a lane holds.
fn add_up(p0: vec4<f32>, p1: vec4<f32>, p2: vec4<f32>, p3: vec4<f32>, p4: vec4<f32>, p5: vec4<f32>, p6: vec4<f32>,
          p7: vec4<f32>, lane: u32) -> vec4<f32> {
    let low = exchange(exchange(p0, p1, 1u, lane), exchange(p2, p3, 1u, lane), 2u, lane);
    let high = exchange(exchange(p4, p5, 1u, lane), exchange(p6, p7, 1u, lane), 2u, lane);
    return exchange(low, high, 4u, lane);
}

fn weighted_two(x: vec4<f32>, y: vec4<f32>, a: f32, b: f32) -> vec4<f32> {
    return fma(vec4(b), y, a * x);
}

// Four columns of u^T x over two of a lane's rows, `x` and `y`.
fn inner_two(u: Oct, v: Oct, x: vec4<f32>, y: vec4<f32>) -> Eight {
    return Eight(weighted_two(x, y, u.low.x, v.low.x), weighted_two(x, y, u.low.y, v.low.y),
                 weighted_two(x, y, u.low.z, v.low.z), weighted_two(x, y, u.low.w, v.low.w),
                 weighted_two(x, y, u.high.x, v.high.x), weighted_two(x, y, u.high.y, v.high.y),
                 weighted_two(x, y, u.high.z, v.high.z), weighted_two(x, y, u.high.w, v.high.w));
}

fn weighted(x: Four, a: f32, b: f32, c: f32, d: f32) -> vec4<f32> {
    return fma(vec4(d), x.x3, fma(vec4(c), x.x2, fma(vec4(b), x.x1, a * x.x0)));
}

// Four columns of u^T x over a lane's rows.
fn inner(u: FourRows, x: Four) -> Eight {
    return Eight(weighted(x, u.r0.low.x, u.r1.low.x, u.r2.low.x, u.r3.low.x),
                 weighted(x, u.r0.low.y, u.r1.low.y, u.r2.low.y, u.r3.low.y),
                 weighted(x, u.r0.low.z, u.r1.low.z, u.r2.low.z, u.r3.low.z),
                 weighted(x, u.r0.low.w, u.r1.low.w, u.r2.low.w, u.r3.low.w),
                 weighted(x, u.r0.high.x, u.r1.high.x, u.r2.high.x, u.r3.high.x),
                 weighted(x, u.r0.high.y, u.r1.high.y, u.r2.high.y, u.r3.high.y),
                 weighted(x, u.r0.high.z, u.r1.high.z, u.r2.high.z, u.r3.high.z),
                 weighted(x, u.r0.high.w, u.r1.high.w, u.r2.high.w, u.r3.high.w));
}

// The same over the block's rows: lane j has direction j.
fn add_inner(p: Eight, lane: u32) -> vec4<f32> {
    return add_up(p.v0, p.v1, p.v2, p.v3, p.v4, p.v5, p.v6, p.v7, lane);
}

// sum + x v for eight columns of a row; `low` and `high` are four of them of V^T each.
fn reduce_oct(sum: Oct, x: Oct, low: Eight, high: Eight) -> Oct {
    return reduce(reduce(sum, x.low, low), x.high, high);
}

fn reduce_four(sums: FourRows, x: FourRows, low: Eight, high: Eight) -> FourRows {
    return FourRows(reduce_oct(sums.r0, x.r0, low, high), reduce_oct(sums.r1, x.r1, low, high),
                    reduce_oct(sums.r2, x.r2, low, high), reduce_oct(sums.r3, x.r3, low, high));
}

// Zero outside, so that a row that repeats another counts once.
fn masked(row: Oct, inside: bool) -> Oct {
    if ROW_TAIL {
        return Oct(select(vec4(0.0), row.low, inside), select(vec4(0.0), row.high, inside));
    }
    return row;
}

// Eight columns of a row of a product of rank 16: `a` with the first eight directions, `b` with the others.
struct Pair {
    a: Oct,
    b: Oct,
}

// What belongs to eight columns of the two factors.
struct Columns {
    a_low: Eight,
    a_high: Eight,
    b_low: Eight,
    b_high: Eight,
}

fn expand_two(row: Pair, a: Eight, b: Eight) -> vec4<f32> {
    return expand_onto(fma(vec4(row.b.low.x), b.v0, expand(row.a, a)), row.b, b);
}

fn expand_pair(row: Pair, c: Columns) -> Oct {
    return Oct(expand_two(row, c.a_low, c.b_low), expand_two(row, c.a_high, c.b_high));
}

// Octs of a page of memory, of 4096 bytes: processors fetch the next line of a row ahead, but not from another page.
const PAGE: u32 = 128u;
// How often a row goes on in another page, at most.
override PAGES: u32 = 1u;

// Where the row from `first` on enters its page `i` after the first; `first` where it has ended before. A kernel loads what is
// there (`touched`) for all rows of a walk at once: on their way, the lanes would wait for one after the other.
fn page(first: u32, i: u32) -> u32 {
    let at = (first / PAGE + 1u + i) * PAGE;
    return select(first, at, at < first + params.octs);
}

// Zero, which the compiler does not know, as it does not know that there are rows: it leaves out what has no use.
fn unused(bits: u32) -> u32 {
    return select(0u, bits, params.rows == 0u);
}
