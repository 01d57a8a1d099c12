// An oct is eight neighbours in a row, which a thread loads at once where rows have a multiple of 8 elements: here as four
// u64 of two elements each. llvmpipe makes of a load a loop over the lanes with some ten instructions for each component,
// however wide it is: two thirds of the time that two loads of a vec4<f32> take.
//
// provides: oct
// needs: software/pairs_u64.wgsl

struct Oct {
    low: vec4<f32>,
    high: vec4<f32>,
}

alias StoredOct = vec4<u64>;

fn oct(x: StoredOct) -> Oct {
    return Oct(quad(x.xy), quad(x.zw));
}

fn stored(x: Oct) -> StoredOct {
    return vec4(pack(x.low.xy), pack(x.low.zw), pack(x.high.xy), pack(x.high.zw));
}

// What is to be stored over `old`: that itself where `keep` says so, else `next`. Of what was selected llvmpipe stores a u64 a
// lane; of what was only packed it would pack each lane's pairs one by one.
fn replaced(old: StoredOct, next: Oct, keep: bool) -> StoredOct {
    return select(stored(next), old, keep);
}

// Some of its bits, which stand for a load that is for the caches alone.
fn touched(x: StoredOct) -> u32 {
    return u32(x.x);
}
