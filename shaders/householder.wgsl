// QR of blocks of rows by Householder reflections, one workgroup a block. Needs lib/grid.wgsl.
//
// Y [batch, rows, columns] is cut into `blocks` blocks of `block_rows` rows, the last of which takes the remainder;
// every block has at least `columns` rows. Per block: Y = Q R with R's diagonal not negative. A product of reflections is
// orthonormal whatever Y is: zero and dependent columns are completed by directions of their own.
//
// Threads: lane % C is a column, lane / C a share of the rows. The reflectors stay in `a` below the diagonal, their heads
// in workgroup memory. Columns are scaled by their largest element first (Q does not depend on it), R is scaled back.

override C: u32 = 16;
override WG: u32 = 64;

struct Params {
    rows: u32,
    columns: u32,
    block_rows: u32,
    blocks: u32,
    batch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> a: array<f32>;
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
@group(0) @binding(4) var<storage, read_write> r: array<f32>;

// The least normal f32; what is below may be flushed to zero.
const LEAST: f32 = 1.1754944e-38;
// A squared norm below this, in a column whose largest element was 1, is rounding: no reflection.
const NEGLIGIBLE: f32 = 1e-30;

var<workgroup> partial: array<f32, WG>;
var<workgroup> weight: array<f32, C>;
var<workgroup> head: array<f32, C>;
var<workgroup> tau: array<f32, C>;
var<workgroup> flip: array<f32, C>;

fn column_sum(column: u32) -> f32 {
    var sum = 0.0;
    for (var i = column; i < WG; i += C) {
        sum += partial[i];
    }
    return sum;
}

@compute @workgroup_size(WG)
fn householder(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
               @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= params.blocks * params.batch {
        return;
    }
    let n = params.columns;
    let block = index % params.blocks;
    let first = block * params.block_rows;
    let rows = select(params.block_rows, params.rows - first, block + 1u == params.blocks);
    let base = (index / params.blocks * params.rows + first) * n;
    let r_base = index * n * n;
    let c = lane % C;
    let share = lane / C;
    let shares = WG / C;
    let in_use = c < n;

    var largest = 0.0;
    if in_use {
        for (var row = share; row < rows; row += shares) {
            largest = max(largest, abs(y[base + row * n + c]));
        }
    }
    partial[lane] = largest;
    workgroupBarrier();
    for (var i = c; i < WG; i += C) {
        largest = max(largest, partial[i]);
    }
    let usable = largest >= LEAST;
    let scale = select(1.0, largest, usable);
    let inverse = select(0.0, 1.0 / scale, usable);
    if in_use {
        for (var row = share; row < rows; row += shares) {
            a[base + row * n + c] = y[base + row * n + c] * inverse;
            q[base + row * n + c] = select(0.0, 1.0, row == c);
        }
    }
    storageBarrier();
    workgroupBarrier();

    for (var j = 0u; j < n; j++) {
        // x = column j from row j down; all products x . column at once, |x|^2 among them.
        var sum = 0.0;
        if in_use && c >= j {
            for (var row = j + share; row < rows; row += shares) {
                sum += a[base + row * n + j] * a[base + row * n + c];
            }
        }
        partial[lane] = sum;
        workgroupBarrier();
        if share == 0u && in_use {
            if c < j {
                r[r_base + j * n + c] = 0.0;
            } else {
                let norm2 = column_sum(j);
                let x = a[base + j * n + j];
                let own = a[base + j * n + c];
                // v = x - alpha e_j with alpha = -sign(x_j) |x|, H = I - t v v^T.
                var alpha = x;
                var v = 0.0;
                var t = 0.0;
                var w = 0.0;
                if norm2 > NEGLIGIBLE {
                    let norm = sqrt(norm2);
                    alpha = select(norm, -norm, x >= 0.0);
                    v = x - alpha;
                    t = 1.0 / (norm2 + abs(x) * norm);
                    w = t * (column_sum(c) - alpha * own);
                }
                let sign = select(1.0, -1.0, alpha < 0.0);
                weight[c] = w;
                if c == j {
                    head[j] = v;
                    tau[j] = t;
                    flip[j] = sign;
                    r[r_base + j * n + j] = sign * alpha * scale;
                } else {
                    r[r_base + j * n + c] = sign * (own - v * w) * scale;
                }
            }
        }
        workgroupBarrier();
        if in_use && c > j {
            let w = weight[c];
            for (var row = j + 1u + share; row < rows; row += shares) {
                a[base + row * n + c] -= a[base + row * n + j] * w;
            }
        }
        storageBarrier();
        workgroupBarrier();
    }

    // Q = H_0 .. H_(n-1) I, the last reflection first; columns before j are still unit vectors that H_j leaves alone.
    for (var i = 0u; i < n; i++) {
        let j = n - 1u - i;
        var sum = 0.0;
        if in_use && c > j {
            for (var row = j + 1u + share; row < rows; row += shares) {
                sum += a[base + row * n + j] * q[base + row * n + c];
            }
        }
        partial[lane] = sum;
        workgroupBarrier();
        if share == 0u && in_use && c >= j {
            let own = select(column_sum(c), head[j], c == j);
            let w = tau[j] * own;
            weight[c] = w;
            q[base + j * n + c] = select(0.0, 1.0, c == j) - head[j] * w;
        }
        workgroupBarrier();
        if in_use && c >= j {
            let w = weight[c];
            for (var row = j + 1u + share; row < rows; row += shares) {
                q[base + row * n + c] -= a[base + row * n + j] * w;
            }
        }
        storageBarrier();
        workgroupBarrier();
    }
    if in_use {
        for (var row = share; row < rows; row += shares) {
            q[base + row * n + c] *= flip[c];
        }
    }
}
