// A pack is what a thread loads at once: here four elements. Rows must have a multiple of 4 elements. How it is stored says
// lib/pack_vec4.wgsl, or another fragment with its functions.
//
// provides: lanes

alias Pack = vec4<f32>;
const PACK: u32 = 4u;

fn pack_sum(x: Pack) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}

fn pack_dot(x: Pack, y: Pack) -> f32 {
    return dot(x, y);
}

fn pack_max(x: Pack) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

// 1 in the place of `element`, if it is among the elements from `first` on, else 0.
fn pack_one(element: u32, first: u32) -> Pack {
    return select(vec4(0.0), vec4(1.0), vec4(element) == vec4(first) + vec4(0u, 1u, 2u, 3u));
}

// Of the eight elements of two packs in succession those of even number, and those of odd number.
fn pack_evens(low: Pack, high: Pack) -> Pack {
    return vec4(low.xz, high.xz);
}

fn pack_odds(low: Pack, high: Pack) -> Pack {
    return vec4(low.yw, high.yw);
}

// The way back: the two packs whose elements are those of `even` and `odd` in turn.
fn pack_zip_low(even: Pack, odd: Pack) -> Pack {
    return vec4(even.x, odd.x, even.y, odd.y);
}

fn pack_zip_high(even: Pack, odd: Pack) -> Pack {
    return vec4(even.z, odd.z, even.w, odd.w);
}
