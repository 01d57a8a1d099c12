// Storage in f16.
enable f16;

@group(0) @binding(0) var<storage, read> narrow: array<f16>;
@group(0) @binding(1) var<storage, read_write> wide: array<f32>;
@group(0) @binding(2) var<storage, read_write> copied: array<f16>;

// An odd number of halves: loads and stores of a half must leave its neighbour in the word alone.
@compute @workgroup_size(64)
fn convert(@builtin(global_invocation_id) id: vec3u) {
    if (id.x < arrayLength(&narrow)) {
        let x = f32(narrow[id.x]);
        wide[id.x] = x;
        copied[arrayLength(&narrow) - 1u - id.x] = f16(x);
    }
}
