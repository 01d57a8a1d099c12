// How the workgroup kernels of attention load and store four neighbouring elements of a row, a quad: here one by one, for
// rows whose length is not a multiple of 4. A row is one head's part of a position; its number is position * heads + head.
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
    return (width + 3u) / 4u;
}

// Columns of a quad.
fn columns(quad: u32) -> vec4<u32> {
    return vec4(4u * quad) + vec4(0u, 1u, 2u, 3u);
}

// Places of a quad's elements. Those beyond the row are its last.
fn places(row: u32, width: u32, quad: u32) -> vec4<u32> {
    return vec4(row * width) + min(columns(quad), vec4(width - 1u));
}

// `x` within a row, 0 beyond: the last quad is summed over whole.
fn within(width: u32, quad: u32, x: vec4<f32>) -> vec4<f32> {
    return select(vec4(0.0), x, columns(quad) < vec4(width));
}

fn load_q(row: u32, quad: u32) -> vec4<f32> {
    let i = places(row, params.width, quad);
    return within(params.width, quad, vec4(wide(q[i.x]), wide(q[i.y]), wide(q[i.z]), wide(q[i.w])));
}

fn load_k(row: u32, quad: u32) -> vec4<f32> {
    let i = places(row, params.width, quad);
    return within(params.width, quad, vec4(wide(k[i.x]), wide(k[i.y]), wide(k[i.z]), wide(k[i.w])));
}

fn load_v(row: u32, quad: u32) -> vec4<f32> {
    let i = places(row, params.value_width, quad);
    return within(params.value_width, quad, vec4(wide(v[i.x]), wide(v[i.y]), wide(v[i.z]), wide(v[i.w])));
}

fn load_dy(row: u32, quad: u32) -> vec4<f32> {
    let i = places(row, params.value_width, quad);
    return within(params.value_width, quad, vec4(wide(dy[i.x]), wide(dy[i.y]), wide(dy[i.z]), wide(dy[i.w])));
}

fn store_one_a(i: u32, x: f32) {
    if params.beta != 0.0 {
        out_a[i] = narrow(x + params.beta * wide(out_a[i]));
    } else {
        out_a[i] = narrow(x);
    }
}

fn store_one_b(i: u32, x: f32) {
    if params.beta != 0.0 {
        out_b[i] = narrow(x + params.beta * wide(out_b[i]));
    } else {
        out_b[i] = narrow(x);
    }
}

// out_a = x + beta out_a
fn store_a(row: u32, width: u32, quad: u32, x: vec4<f32>) {
    let i = places(row, width, quad);
    let valid = columns(quad) < vec4(width);
    if valid.x { store_one_a(i.x, x.x); }
    if valid.y { store_one_a(i.y, x.y); }
    if valid.z { store_one_a(i.z, x.z); }
    if valid.w { store_one_a(i.w, x.w); }
}

// out_b = x + beta out_b
fn store_b(row: u32, width: u32, quad: u32, x: vec4<f32>) {
    let i = places(row, width, quad);
    let valid = columns(quad) < vec4(width);
    if valid.x { store_one_b(i.x, x.x); }
    if valid.y { store_one_b(i.y, x.y); }
    if valid.z { store_one_b(i.z, x.z); }
    if valid.w { store_one_b(i.w, x.w); }
}
