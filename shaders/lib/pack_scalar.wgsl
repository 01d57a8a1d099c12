// A pack is what a thread loads at once: here one element, for rows whose length is not a multiple of 4.
//
// provides: pack, lanes

alias Pack = f32;
const PACK: u32 = 1u;

// How it is stored where that may be in f16: `Real` is declared in front of the kernel. Arithmetic is on `Pack`.
alias StoredPack = Real;

fn wide(x: StoredPack) -> Pack {
    return Pack(x);
}

fn narrow(x: Pack) -> StoredPack {
    return StoredPack(x);
}

fn pack_sum(x: Pack) -> f32 {
    return x;
}

fn pack_dot(x: Pack, y: Pack) -> f32 {
    return x * y;
}

fn pack_max(x: Pack) -> f32 {
    return x;
}

// 1 if `element` is the element `first`, else 0.
fn pack_one(element: u32, first: u32) -> Pack {
    return select(0.0, 1.0, element == first);
}

// Of the two elements of two packs in succession that of even number, and that of odd number.
fn pack_evens(low: Pack, high: Pack) -> Pack {
    return low;
}

fn pack_odds(low: Pack, high: Pack) -> Pack {
    return high;
}

// The way back.
fn pack_zip_low(even: Pack, odd: Pack) -> Pack {
    return even;
}

fn pack_zip_high(even: Pack, odd: Pack) -> Pack {
    return odd;
}
