// QR of blocks of rows by Householder reflections, one workgroup a block.
//
// Y [batch, rows, columns] is cut into `blocks` blocks of `block_rows` rows, the last of which takes the remainder;
// every block has at least `columns` rows. Per block: Y = Q R with R's diagonal not negative. A product of reflections is
// orthonormal whatever Y is: zero and dependent columns are completed by directions of their own.
//
// A thread owns every WG-th row, so that one pass over the block applies a reflection and sums up the products that the
// next one needs; only the sums cross threads. Rows lie in `a` (the reflectors, below the diagonal) and `b` (Q) as G vec4s,
// padded with zeros. Columns are scaled by their largest element first (Q does not depend on it), R is scaled back.
//
// needs: lib/grid.wgsl

override G: u32 = 4;
override WG: u32 = 8;
// Shares into which the sum over threads is cut first.
override PARTS: u32 = 1;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> b: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> q: array<f32>;
@group(0) @binding(5) var<storage, read_write> r: array<f32>;

// The least normal f32; what is below may be flushed to zero.
const LEAST: f32 = 1.1754944e-38;
// A squared norm below this, in a column whose largest element was 1, is rounding: no reflection.
const NEGLIGIBLE: f32 = 1e-30;
// The exponent of numbers that are not finite.
const EXPONENT: u32 = 0x7f800000u;
// The most vec4s of a row: 64 columns.
const MAX_G: u32 = 16;

var<workgroup> partial: array<vec4<f32>, WG * G>;
var<workgroup> sums: array<vec4<f32>, PARTS * G>;
// The row of the diagonal element, complete when its column's turn comes.
var<workgroup> pivot: array<vec4<f32>, G>;
// w of the update A -= v w^T, zero in columns that it leaves alone.
var<workgroup> weight: array<vec4<f32>, G>;
var<workgroup> scale: array<vec4<f32>, G>;
// Of each reflection I - tau v v^T: v's first element and tau; and the sign that makes R's diagonal positive.
var<workgroup> head: array<f32, G * 4>;
var<workgroup> tau: array<f32, G * 4>;
var<workgroup> flip: array<vec4<f32>, G>;

// Sums `partial` over threads into `sums`, a share each.
fn add_up(lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < PARTS * G; i += WG) {
        var sum = vec4<f32>();
        for (var thread = i / G; thread < WG; thread += PARTS) {
            sum += partial[thread * G + i % G];
        }
        sums[i] = sum;
    }
    workgroupBarrier();
}

fn total(g: u32) -> vec4<f32> {
    var sum = sums[g];
    for (var i = 1u; i < PARTS; i++) {
        sum += sums[i * G + g];
    }
    return sum;
}

// Four column numbers.
fn columns_of(g: u32) -> vec4<u32> {
    return 4u * g + vec4<u32>(0u, 1u, 2u, 3u);
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
    let row_base = index / params.blocks * params.rows + first;
    let y_base = row_base * n;
    let base = row_base * G;
    let r_base = index * n * n;
    var sum: array<vec4<f32>, MAX_G>;

    // Scales.
    for (var g = 0u; g < G; g++) {
        sum[g] = vec4<f32>();
    }
    for (var row = lane; row < rows; row += WG) {
        for (var g = 0u; g < G; g++) {
            var value = vec4<f32>();
            let source = y_base + row * n + 4u * g;
            if 4u * g + 3u < n {
                value = vec4<f32>(y[source], y[source + 1u], y[source + 2u], y[source + 3u]);
            } else {
                for (var e = 0u; 4u * g + e < n; e++) {
                    value[e] = y[source + e];
                }
            }
            a[base + row * G + g] = value;
            sum[g] = max(sum[g], abs(value));
        }
    }
    for (var g = 0u; g < G; g++) {
        partial[lane * G + g] = sum[g];
    }
    workgroupBarrier();
    if lane < G {
        var largest = vec4<f32>();
        for (var i = lane; i < WG * G; i += G) {
            largest = max(largest, partial[i]);
        }
        scale[lane] = largest;
    }
    workgroupBarrier();

    // Scaled copy, Q = I, and the products of column 0.
    for (var g = 0u; g < G; g++) {
        sum[g] = vec4<f32>();
    }
    for (var row = lane; row < rows; row += WG) {
        let x = a[base + row * G].x / max(scale[0].x, LEAST);
        for (var g = 0u; g < G; g++) {
            let value = a[base + row * G + g] / max(scale[g], vec4<f32>(LEAST));
            a[base + row * G + g] = value;
            b[base + row * G + g] = select(vec4<f32>(), vec4<f32>(1.0), columns_of(g) == vec4<u32>(row));
            sum[g] += x * value;
            if row == 0u {
                pivot[g] = value;
            }
        }
    }

    for (var j = 0u; j < n; j++) {
        // x = column j from row j down; `sum` holds x . column for all columns, |x|^2 among them.
        for (var g = 0u; g < G; g++) {
            partial[lane * G + g] = sum[g];
        }
        add_up(lane);
        for (var g = lane; g < G; g += WG) {
            let norm2 = total(j / 4u)[j % 4u];
            let x = pivot[j / 4u][j % 4u];
            let own = pivot[g];
            // v = x - alpha e_j with alpha = -sign(x_j) |x|, H = I - tau v v^T.
            var alpha = x;
            var v = 0.0;
            var t = 0.0;
            // By the bits: a compiler may assume that no number is NaN. What is not finite makes R so.
            if norm2 > NEGLIGIBLE || (bitcast<u32>(norm2) & EXPONENT) == EXPONENT {
                let norm = sqrt(norm2);
                alpha = select(norm, -norm, x >= 0.0);
                v = x - alpha;
                t = 1.0 / (norm2 + abs(x) * norm);
            }
            let columns = columns_of(g);
            let later = columns > vec4<u32>(j);
            let w = select(vec4<f32>(), t * (total(g) - alpha * own), later);
            weight[g] = w;
            let sign = select(1.0, -1.0, alpha < 0.0);
            let r_row = select(select(vec4<f32>(), vec4<f32>(alpha), columns == vec4<u32>(j)), own - v * w, later);
            for (var e = 0u; e < 4u; e++) {
                if 4u * g + e < n {
                    r[r_base + j * n + 4u * g + e] = sign * r_row[e] * scale[g][e];
                }
            }
            if g == j / 4u {
                head[j] = v;
                tau[j] = t;
                flip[g][j % 4u] = sign;
            }
        }
        workgroupBarrier();
        let next = j + 1u;
        if next < n {
            for (var g = 0u; g < G; g++) {
                sum[g] = vec4<f32>();
            }
            let next_weight = weight[next / 4u][next % 4u];
            for (var row = next + (lane + WG - next % WG) % WG; row < rows; row += WG) {
                let v = a[base + row * G + j / 4u][j % 4u];
                let x = a[base + row * G + next / 4u][next % 4u] - v * next_weight;
                for (var g = 0u; g < G; g++) {
                    let value = a[base + row * G + g] - v * weight[g];
                    a[base + row * G + g] = value;
                    sum[g] += x * value;
                    if row == next {
                        pivot[g] = value;
                    }
                }
            }
        }
    }

    // Q = H_0 .. H_(n-1) I, the last reflection first; columns before j are still unit vectors that H_j leaves alone.
    for (var i = 0u; i < n; i++) {
        let j = n - 1u - i;
        let last = j + 1u;
        for (var g = 0u; g < G; g++) {
            sum[g] = vec4<f32>();
        }
        if last < n {
            for (var row = last + (lane + WG - last % WG) % WG; row < rows; row += WG) {
                var v = a[base + row * G + last / 4u][last % 4u];
                if row == last {
                    v = head[last];
                }
                let x = a[base + row * G + j / 4u][j % 4u];
                for (var g = 0u; g < G; g++) {
                    let value = b[base + row * G + g] - v * weight[g];
                    b[base + row * G + g] = value;
                    sum[g] += x * value;
                }
            }
        }
        for (var g = 0u; g < G; g++) {
            partial[lane * G + g] = sum[g];
        }
        add_up(lane);
        for (var g = lane; g < G; g += WG) {
            let columns = columns_of(g);
            let products = select(vec4<f32>(), total(g), columns > vec4<u32>(j));
            weight[g] = tau[j] * select(products, vec4<f32>(head[j]), columns == vec4<u32>(j));
        }
        workgroupBarrier();
    }
    for (var row = lane; row < rows; row += WG) {
        var v = a[base + row * G].x;
        if row == 0u {
            v = head[0];
        }
        for (var g = 0u; g < G; g++) {
            let value = (b[base + row * G + g] - v * weight[g]) * flip[g];
            let to = y_base + row * n + 4u * g;
            if 4u * g + 3u < n {
                q[to] = value.x;
                q[to + 1u] = value.y;
                q[to + 2u] = value.z;
                q[to + 3u] = value.w;
            } else {
                for (var e = 0u; 4u * g + e < n; e++) {
                    q[to + e] = value[e];
                }
            }
        }
    }
}
