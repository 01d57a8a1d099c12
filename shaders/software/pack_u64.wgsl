// A pack of four f32 stored as two u64, which llvmpipe loads in two thirds of the time.
//
// provides: pack
// needs: software/pairs_u64.wgsl, lib/pack_four.wgsl

alias StoredPack = vec2<u64>;

fn wide(x: StoredPack) -> Pack {
    return quad(x);
}

fn narrow(x: Pack) -> StoredPack {
    return vec2(pack(x.xy), pack(x.zw));
}
