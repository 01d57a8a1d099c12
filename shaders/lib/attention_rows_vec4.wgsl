// How the workgroup kernels of attention load and store four neighbouring elements of a row, a quad: here as one pack.
// A row is one head's part of a position; its number is position * heads + head.
//
// provides: attention_rows
// needs: pack, lib/attention_params.wgsl

@group(0) @binding(4) var<storage, read> dy: array<StoredPack>;
@group(0) @binding(5) var<storage, read> lse: array<f32>;
@group(0) @binding(6) var<storage, read> delta: array<f32>;
@group(0) @binding(7) var<storage, read_write> out_a: array<StoredPack>;
@group(0) @binding(8) var<storage, read_write> out_b: array<StoredPack>;

// Quads of a row of `width` packs.
fn quads(width: u32) -> u32 {
    return width;
}

// A quad beyond its row is the row's last: what is made of it is not used.
fn load_q(row: u32, quad: u32) -> vec4<f32> {
    return wide(q[row * params.width + min(quad, params.width - 1u)]);
}

fn load_k(row: u32, quad: u32) -> vec4<f32> {
    return wide(k[row * params.width + min(quad, params.width - 1u)]);
}

fn load_v(row: u32, quad: u32) -> vec4<f32> {
    return wide(v[row * params.value_width + min(quad, params.value_width - 1u)]);
}

fn load_dy(row: u32, quad: u32) -> vec4<f32> {
    return wide(dy[row * params.value_width + min(quad, params.value_width - 1u)]);
}

// out_a = x + beta out_a
fn store_a(row: u32, width: u32, quad: u32, x: vec4<f32>) {
    if quad < width {
        let i = row * width + quad;
        if params.beta != 0.0 {
            out_a[i] = narrow(x + params.beta * wide(out_a[i]));
        } else {
            out_a[i] = narrow(x);
        }
    }
}

// out_b = x + beta out_b
fn store_b(row: u32, width: u32, quad: u32, x: vec4<f32>) {
    if quad < width {
        let i = row * width + quad;
        if params.beta != 0.0 {
            out_b[i] = narrow(x + params.beta * wide(out_b[i]));
        } else {
            out_b[i] = narrow(x);
        }
    }
}
