// SVD of small matrices by one-sided Jacobi rotations (Hestenes 1958; ordering of Brent and Luk 1985), one workgroup a
// matrix, one thread a pair of columns.
//
// X [rows, columns], rows >= columns, is copied column by column and scaled by its largest element into `w`. Rotations
// make its columns orthogonal: w = X V, and its columns' norms are the singular values. A round rotates disjoint pairs,
// a sweep of columns - 1 rounds meets every pair once. Output, sorted by falling singular value: s [columns] and the first
// `keep` columns of U and V. A column of U whose singular value is zero is zero. Of an X that is not finite all is NaN.
//
// Columns lie in vec4s, padded with zeros. That is also what keeps a thread below 65535 loop iterations: llvmpipe (Mesa 22)
// leaves all loops of an invocation once it has made that many in total.
//
// needs: lib/grid.wgsl

// All sizes that bound loops are constants of the pipeline, and there are no parameters: lavapipe (Mesa 22) puts uniform values
// into the code of a kernel that shrinks or unrolls by it, and so compiled this one anew, 15 ms, at every dispatch.

override WG: u32 = 8;
// The columns, rounded up to a power of two, at least 16.
override COLUMNS: u32 = 16;
override ROWS: u32 = 16;
override WIDTH: u32 = 16;
// X is stored [columns, rows].
override TRANSPOSED: bool = false;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> vt: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> u: array<f32>;
@group(0) @binding(5) var<storage, read_write> s: array<f32>;
@group(0) @binding(6) var<storage, read_write> v: array<f32>;

// The least normal f32; what is below may be flushed to zero.
const LEAST: f32 = 1.1754944e-38;
// Columns with a cosine below this count as orthogonal: 8 eps, just above what the rounding of a dot product leaves.
const ORTHOGONAL: f32 = 5e-7;
// So do pairs whose product is below this part of |X|_F^2: both columns are rounding errors of larger ones.
const NEGLIGIBLE: f32 = 1e-16;
// The exponent of numbers that are not finite. By the bits: a compiler may assume that there are none.
const EXPONENT: u32 = 0x7f800000u;
const NAN: u32 = 0x7fc00000u;
// One-sided Jacobi converges quadratically, in 5 to 9 sweeps at these sizes.
const SWEEPS: u32 = 15;

var<workgroup> partial: array<f32, WG>;
var<workgroup> norm: array<f32, COLUMNS>;
var<workgroup> unfinished: u32;

fn finite_or_nan(value: f32, broken: bool) -> f32 {
    return bitcast<f32>(select(bitcast<u32>(value), NAN, broken));
}

@compute @workgroup_size(WG)
fn jacobi_svd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(group, groups);
    if index >= arrayLength(&s) / WIDTH {
        return;
    }
    let m = ROWS;
    let n = WIDTH;
    let size = m * n;
    let x_base = index * size;
    let m4 = (m + 3u) / 4u;
    let n4 = (n + 3u) / 4u;
    // No constant, so that another rank is not another kernel to compile.
    let keep = arrayLength(&v) / arrayLength(&s);
    let base = index * n * m4;
    let v_base = index * n * n4;

    var largest = 0.0;
    var exponent = 0u;
    for (var i = lane; i < size; i += WG) {
        let value = x[x_base + i];
        largest = max(largest, abs(value));
        exponent = max(exponent, bitcast<u32>(value) & EXPONENT);
    }
    // Negative where an element is not finite.
    partial[lane] = select(largest, -1.0, exponent == EXPONENT);
    workgroupBarrier();
    largest = 0.0;
    var broken = false;
    for (var i = 0u; i < WG; i++) {
        broken = broken || partial[i] < 0.0;
        largest = max(largest, partial[i]);
    }
    workgroupBarrier();
    largest = select(largest, 0.0, broken);
    let usable = largest >= LEAST;
    let scale = select(0.0, largest, usable);
    let inverse = select(0.0, 1.0 / largest, usable);
    var energy = 0.0;
    let row_step = select(n, 1u, TRANSPOSED);
    let column_step = select(1u, m, TRANSPOSED);
    for (var i = lane; i < n * m4; i += WG) {
        let first = i % m4 * 4u;
        let origin = x_base + i / m4 * column_step;
        var value = vec4<f32>();
        for (var e = 0u; e < 4u; e++) {
            if first + e < m {
                value[e] = select(x[origin + (first + e) * row_step] * inverse, 0.0, broken);
            }
        }
        w[base + i] = value;
        energy += dot(value, value);
    }
    for (var i = lane; i < n * n4; i += WG) {
        let first = i % n4 * 4u;
        vt[v_base + i] = select(vec4<f32>(), vec4<f32>(1.0), vec4<u32>(first, first + 1u, first + 2u, first + 3u) == vec4<u32>(i / n4));
    }
    partial[lane] = energy;
    storageBarrier();
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < WG; i++) {
        total += partial[i];
    }
    workgroupBarrier();

    // Round robin: the last of an even number of players stays, the others turn. An odd player's partner is a dummy.
    let players = (n + 1u) / 2u * 2u;
    let turning = max(players, 2u) - 1u;
    for (var sweep = 0u; sweep < SWEEPS; sweep++) {
        var rotations = 0.0;
        for (var round = 0u; round < turning; round++) {
            if lane < players / 2u {
                let p = (round + lane) % turning;
                let opposite = (round + turning - lane) % turning;
                let q = select(opposite, turning, lane == 0u);
                if p < n && q < n {
                    let wp = base + p * m4;
                    let wq = base + q * m4;
                    var alpha4 = vec4<f32>();
                    var beta4 = vec4<f32>();
                    var gamma4 = vec4<f32>();
                    for (var i = 0u; i < m4; i++) {
                        let a = w[wp + i];
                        let b = w[wq + i];
                        alpha4 += a * a;
                        beta4 += b * b;
                        gamma4 += a * b;
                    }
                    let alpha = dot(alpha4, vec4<f32>(1.0));
                    let beta = dot(beta4, vec4<f32>(1.0));
                    let gamma = dot(gamma4, vec4<f32>(1.0));
                    if abs(gamma) > max(ORTHOGONAL * sqrt(alpha) * sqrt(beta), NEGLIGIBLE * total) {
                        rotations += 1.0;
                        let zeta = 0.5 * (beta - alpha) / gamma;
                        // tan of the rotation's angle, the smaller root; zeta^2 must not overflow.
                        var t = 0.5 / zeta;
                        if abs(zeta) < 1e8 {
                            t = select(1.0, -1.0, zeta < 0.0) / (abs(zeta) + sqrt(1.0 + zeta * zeta));
                        }
                        let cosine = 1.0 / sqrt(1.0 + t * t);
                        let sine = cosine * t;
                        // Rutishauser's form: errors are in proportion to the sine, so small rotations lose nothing.
                        let half = sine / (1.0 + cosine);
                        for (var i = 0u; i < m4; i++) {
                            let a = w[wp + i];
                            let b = w[wq + i];
                            w[wp + i] = a - sine * (b + half * a);
                            w[wq + i] = b + sine * (a - half * b);
                        }
                        let vp = v_base + p * n4;
                        let vq = v_base + q * n4;
                        for (var i = 0u; i < n4; i++) {
                            let a = vt[vp + i];
                            let b = vt[vq + i];
                            vt[vp + i] = a - sine * (b + half * a);
                            vt[vq + i] = b + sine * (a - half * b);
                        }
                    }
                }
            }
            storageBarrier();
            workgroupBarrier();
        }
        partial[lane] = rotations;
        workgroupBarrier();
        if lane == 0u {
            var sum = 0.0;
            for (var i = 0u; i < WG; i++) {
                sum += partial[i];
            }
            unfinished = u32(sum);
        }
        if workgroupUniformLoad(&unfinished) == 0u {
            break;
        }
    }

    for (var column = lane; column < n; column += WG) {
        var sum = 0.0;
        for (var i = 0u; i < m4; i++) {
            let a = w[base + column * m4 + i];
            sum += dot(a, a);
        }
        norm[column] = sqrt(sum);
    }
    workgroupBarrier();
    for (var column = lane; column < n; column += WG) {
        let own = norm[column];
        var rank = 0u;
        for (var other = 0u; other < n; other++) {
            rank += u32(norm[other] > own || (norm[other] == own && other < column));
        }
        s[index * n + rank] = finite_or_nan(own * scale, broken);
        if rank < keep {
            let factor = select(0.0, 1.0 / own, own > LEAST);
            for (var i = 0u; i < m; i++) {
                let element = w[base + column * m4 + i / 4u][i % 4u] * factor;
                u[(index * m + i) * keep + rank] = finite_or_nan(element, broken);
            }
            for (var i = 0u; i < n; i++) {
                let element = vt[v_base + column * n4 + i / 4u][i % 4u];
                v[(index * n + i) * keep + rank] = finite_or_nan(element, broken);
            }
        }
    }
}
