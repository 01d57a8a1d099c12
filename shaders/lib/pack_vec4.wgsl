// A pack of four stored as a vec4, maybe of f16: `Real` is declared in front of the kernel. Arithmetic is on `Pack`. Needs
// lib/pack_four.wgsl.
//
// provides: pack
// needs: lib/pack_four.wgsl

alias StoredPack = vec4<Real>;

fn wide(x: StoredPack) -> Pack {
    return Pack(x);
}

fn narrow(x: Pack) -> StoredPack {
    return StoredPack(x);
}
