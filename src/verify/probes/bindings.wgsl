// What is bound where.

struct Part { index: u32, value: u32 }

@group(0) @binding(0) var<uniform> part: Part;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

// Runs once for each part of a buffer, bound with a dynamic offset.
@compute @workgroup_size(1)
fn dynamic_offsets() {
    out[part.index] = part.value + part.index;
}

@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<vec4u>;
@group(1) @binding(0) var<storage, read> c: array<u32>;
@group(1) @binding(5) var<storage, read_write> lengths: array<u32, 4>;

// The number of elements that a binding has, which begins within its buffer.
@compute @workgroup_size(1)
fn array_lengths() {
    lengths[0] = arrayLength(&a);
    lengths[1] = arrayLength(&b);
    lengths[2] = arrayLength(&c);
    lengths[3] = a[arrayLength(&a) - 1u] + b[arrayLength(&b) - 1u].w + c[arrayLength(&c) - 1u];
}

struct Mixed {
    a: f32,
    b: vec2f,
    c: vec3f,
    d: u32,
    e: mat2x2f,
    f: mat3x3f,
    g: array<vec4f, 2>,
    h: i32,
}

@group(0) @binding(4) var<uniform> mixed: Mixed;
@group(0) @binding(5) var<storage, read_write> scalars: array<f32>;

// Every scalar of a struct, in order.
@compute @workgroup_size(1)
fn uniform_layout() {
    scalars[0] = mixed.a;
    scalars[1] = mixed.b.x;
    scalars[2] = mixed.b.y;
    scalars[3] = mixed.c.x;
    scalars[4] = mixed.c.y;
    scalars[5] = mixed.c.z;
    scalars[6] = f32(mixed.d);
    scalars[7] = mixed.e[0].x;
    scalars[8] = mixed.e[0].y;
    scalars[9] = mixed.e[1].x;
    scalars[10] = mixed.e[1].y;
    for (var i = 0u; i < 3u; i++) {
        for (var j = 0u; j < 3u; j++) {
            scalars[11u + 3u * i + j] = mixed.f[i][j];
        }
    }
    for (var i = 0u; i < 2u; i++) {
        for (var j = 0u; j < 4u; j++) {
            scalars[20u + 4u * i + j] = mixed.g[i][j];
        }
    }
    scalars[28] = f32(mixed.h);
}

struct Neighbours { v: vec3f, w: u32 }

@group(0) @binding(6) var<storage, read_write> neighbours: array<Neighbours>;

// Even threads store vectors of three, odd ones the word behind each.
@compute @workgroup_size(64)
fn vec3_neighbours(@builtin(global_invocation_id) id: vec3u) {
    let i = id.x / 2u;
    if (id.x % 2u == 0u) {
        neighbours[i].v = vec3f(f32(i), f32(i) + 0.25, f32(i) + 0.5);
    } else {
        neighbours[i].w = i + 1000u;
    }
}
