// An oct is eight neighbours in a row, which a thread loads at once where rows have a multiple of 8 elements: here in two
// loads.
//
// provides: oct

struct Oct {
    low: vec4<f32>,
    high: vec4<f32>,
}

alias StoredOct = Oct;

fn oct(x: StoredOct) -> Oct {
    return x;
}

fn stored(x: Oct) -> StoredOct {
    return x;
}

// What is to be stored over `old`: that itself where `keep` says so, else `next`.
fn replaced(old: StoredOct, next: Oct, keep: bool) -> StoredOct {
    return Oct(select(next.low, old.low, keep), select(next.high, old.high, keep));
}

// Some of its bits, which stand for a load that is for the caches alone.
fn touched(x: StoredOct) -> u32 {
    return bitcast<u32>(x.low.x);
}
