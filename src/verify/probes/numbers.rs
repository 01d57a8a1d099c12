//! Integers and floats at their edges, and storage in f16.

use super::{Probe, bytes, words};
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Findings, Needs};
use crate::verify::shader::{Buffers, Job};

const INTEGERS: &str = include_str!("integers.wgsl");
const FLOATS: &str = include_str!("floats.wgsl");
const HALF: &str = include_str!("half.wgsl");

/// Pairs of numbers about every edge.
fn pairs() -> Vec<[u32; 2]> {
    let edges = [
        0,
        1,
        2,
        3,
        7,
        10,
        31,
        32,
        33,
        255,
        65_535,
        65_536,
        0x7fff_fffe,
        0x7fff_ffff,
        0x8000_0000,
        0x8000_0001,
        0xffff_fff6,
        0xffff_fffe,
        0xffff_ffff,
        2_654_435_761,
    ];
    edges.iter().flat_map(|&a| edges.map(|b| [a, b])).collect()
}

/// A probe of all pairs that gives `N` words for each.
fn integers<const N: usize>(what: &str, entry: &str, f: fn(u32, u32) -> [u32; N]) -> Probe {
    Probe::new(Quick, what, INTEGERS, entry, move |job| {
        let pairs = pairs();
        job.groups = [pairs.len().div_ceil(64) as u32, 1, 1];
        let want: Vec<u32> = pairs.iter().flat_map(|&[a, b]| f(a, b)).collect();
        job.inputs.insert("pairs".into(), bytes(&pairs));
        job.sizes.insert("out".into(), want.len() as u64 * 4);
        job.expected.insert("out".into(), bytes(&want));
    })
}

/// Division as WGSL defines it: by zero, and of the least number by -1, the dividend stays.
fn division(a: u32, b: u32) -> [u32; 4] {
    let (sa, sb) = (a as i32, b as i32);
    [
        a.checked_div(b).unwrap_or(a),
        a.checked_rem(b).unwrap_or(0),
        sa.checked_div(sb).unwrap_or(sa) as u32,
        sa.checked_rem(sb).unwrap_or(0) as u32,
    ]
}

fn shifts(a: u32, b: u32) -> [u32; 4] {
    let by = b % 32;
    [a << by, a >> by, ((a as i32) >> by) as u32, a.wrapping_mul(b)]
}

fn bits(a: u32, b: u32) -> [u32; 8] {
    let (from, count) = (b % 32, 5.min(32 - b % 32));
    let mask = (1 << count) - 1;
    [
        a.count_ones(),
        a.leading_zeros(),
        a.trailing_zeros(),
        a.checked_ilog2().unwrap_or(u32::MAX),
        if a == 0 { u32::MAX } else { a.trailing_zeros() },
        a.reverse_bits(),
        a >> from & mask,
        a & !(mask << from) | (0x15 & mask) << from,
    ]
}

pub(super) fn probes() -> Vec<Probe> {
    let mut all = vec![
        integers("integers/division", "division", division),
        integers("integers/shifts and products", "shifts", shifts),
        integers("integers/bits", "bits", bits),
    ];
    // WGSL clamps a conversion to the type's range; languages below it leave what is beyond undefined.
    all.push(Probe::judged(
        Usual,
        "integers/conversions of floats",
        INTEGERS,
        "conversions",
        |job| {
            job.inputs.insert("floats".into(), bytes(&CONVERTED));
            job.sizes.insert("out".into(), CONVERTED.len() as u64 * 8);
        },
        conversions,
    ));
    all.push(Probe::judged(Quick, "floats/special numbers", FLOATS, "special", special_numbers, told));
    all.push(Probe::judged(
        Quick,
        "floats/unpack2x16float",
        FLOATS,
        "unpack",
        |job| {
            job.groups = [512, 1, 1];
            job.sizes.insert("unpacked".into(), 32_768 * 8);
        },
        unpacked,
    ));
    let wide = wide();
    let packed = wide.clone();
    all.push(Probe::judged(
        Quick,
        "floats/pack2x16float",
        FLOATS,
        "pack",
        |job| {
            job.groups = [wide.len() as u32 / 64, 1, 1];
            job.inputs.insert("wide".into(), bytes(&wide));
            job.sizes.insert("out".into(), wide.len() as u64 * 4);
        },
        move |buffers, found| check_packed(&packed, buffers, found),
    ));
    let ordinary: Vec<[f32; 2]> = (0..4096u32).map(|i| [noise(2 * i) * 20.0, noise(2 * i + 1) * 20.0 + 21.0]).collect();
    let again = ordinary.clone();
    all.push(Probe::judged(
        Quick,
        "floats/accuracy",
        FLOATS,
        "arithmetic",
        |job| {
            job.groups = [64, 1, 1];
            job.inputs.insert("wide".into(), bytes(&ordinary));
            job.sizes.insert("out".into(), 4096 * 32);
        },
        move |buffers, found| accuracy(&again, buffers, found),
    ));
    let half = Probe::new(Quick, "f16/loads and stores of halves", HALF, "convert", |job| {
        job.groups = [16, 1, 1];
        // An odd number in all cannot be bound in whole words: the last of 1002 is told apart by its place.
        let narrow: Vec<u16> = (0..1002u32).map(|i| half::f16::from_f32(noise(i) * 100.0).to_bits()).collect();
        let wide: Vec<f32> = narrow.iter().map(|&x| half::f16::from_bits(x).to_f32()).collect();
        job.sizes.insert("wide".into(), wide.len() as u64 * 4);
        job.sizes.insert("copied".into(), narrow.len() as u64 * 2);
        job.expected.insert("wide".into(), bytes(&wide));
        job.expected.insert("copied".into(), bytes(&narrow.iter().rev().copied().collect::<Vec<_>>()));
        job.inputs.insert("narrow".into(), bytes(&narrow));
    });
    all.push(Probe { needs: Some(Needs::F16), ..half });
    all
}

/// A number in -1..1.
fn noise(i: u32) -> f32 {
    (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

const CONVERTED: [f32; 14] = [
    0.0,
    -0.0,
    0.9,
    -0.9,
    1.5,
    -1.5,
    2_147_483_520.0,
    2_147_483_648.0,
    -2_147_483_648.0,
    3e9,
    4_294_967_040.0,
    5e9,
    -5e9,
    1e30,
];

/// Conversions as WGSL clamps them: to the largest float that the type holds, or to the type's largest number.
fn conversions(buffers: &Buffers, found: &mut Findings) {
    for (x, pair) in CONVERTED.iter().zip(words(buffers, "out").chunks_exact(2)) {
        let (signed, unsigned) = (pair[0] as i32, pair[1]);
        let right = |got: i64, exact: i64, float: i64| got == exact || got == float;
        let float = x.clamp(-2_147_483_648.0, 2_147_483_520.0) as i64;
        if !right(i64::from(signed), i64::from(*x as i32), float) {
            found.wrong(format!("i32({x}) is {signed}, expected {}", *x as i32));
        }
        let float = x.clamp(0.0, 4_294_967_040.0) as i64;
        if !right(i64::from(unsigned), i64::from(*x as u32), float) {
            found.wrong(format!("u32({x}) is {unsigned}, expected {}", *x as u32));
        }
    }
}

/// NaN, -0, a denormal, infinity, 1, the largest number, 0.
fn special_numbers(job: &mut Job) {
    let x = [f32::NAN, -0.0, f32::from_bits(0x0040_0000), f32::INFINITY, 1.0, f32::MAX, 0.0];
    job.inputs.insert("x".into(), bytes(&x));
    job.sizes.insert("out".into(), 64);
}

/// Tells what a driver makes of them.
fn told(buffers: &Buffers, found: &mut Findings) {
    let out = words(buffers, "out");
    let [
        unequal,
        nan_times,
        min,
        max,
        zero,
        tiny,
        doubled,
        infinite,
        difference,
        square,
        division,
        root,
        clamped,
        above,
        fma,
        stored,
    ] = out[..]
    else {
        return found.wrong("not all was written");
    };
    let float = f32::from_bits;
    let show = |bits: u32| format!("{:?}", float(bits));
    let mut odd = Vec::new();
    if unequal == 0 {
        odd.push("NaN equals itself".to_owned());
    }
    for (what, bits) in [("NaN * 1", nan_times), ("inf - inf", difference), ("sqrt(-1)", root)] {
        if !float(bits).is_nan() {
            odd.push(format!("{what} is {}", show(bits)));
        }
    }
    for (what, bits) in [("inf * 1", infinite), ("the largest squared", square), ("1 / 0", division)] {
        if float(bits) != f32::INFINITY {
            odd.push(format!("{what} is {}", show(bits)));
        }
    }
    if above == 0 {
        odd.push("infinity is not above the largest number".to_owned());
    }
    if zero != (-0.0f32).to_bits() {
        odd.push(format!("-0 * 1 is {}", show(zero)));
    }
    if stored != 0x0040_0000 {
        odd.push("a denormal is lost by a load and a store".to_owned());
    }
    let denormals = if tiny == 0x0040_0000 && doubled == 0x0080_0000 { "kept" } else { "flushed to 0" };
    let fused = if float(fma) == -f32::EPSILON * f32::EPSILON { "fused" } else { "rounded twice" };
    let odd = if odd.is_empty() { "as in IEEE 754".to_owned() } else { odd.join(", ") };
    found.note(format!(
        "NaN, infinity and -0: {odd}; min, max, clamp of NaN and 1: {}, {}, {}; denormals are {denormals}; fma is {fused}",
        show(min),
        show(max),
        show(clamped)
    ));
}

/// Every f16 as f32: exact, but that denormals may be zero and infinities and NaN anything.
fn unpacked(buffers: &Buffers, found: &mut Findings) {
    let mut flushed = 0;
    for (i, &got) in words(buffers, "unpacked").iter().enumerate() {
        // The low halves are even numbers and the high ones odd.
        let bits = i as u16;
        let (want, got) = (half::f16::from_bits(bits), f32::from_bits(got));
        if !want.is_finite() || got == want.to_f32() {
            continue;
        }
        let denormal = want.to_f32().abs() < 6.1e-5;
        if denormal && got == 0.0 {
            flushed += 1;
        } else {
            found.wrong(format!("unpack2x16float of {bits:#06x} is {got}, expected {want}"));
        }
    }
    if flushed > 0 {
        found.note(format!("{flushed} denormal f16 are unpacked as 0"));
    }
}

/// Floats that f16 holds, and others between them, below them.
fn wide() -> Vec<[f32; 2]> {
    let exact = |i: u32| half::f16::from_bits(((i * 29) & 0x7bff) as u16 | ((i & 1) << 15) as u16).to_f32();
    (0..4096u32)
        .map(|i| [exact(i), exact(i) + noise(i) * exact(i) * 0.01])
        .map(|[a, b]| [a, b.clamp(-65_504.0, 65_504.0)])
        .collect()
}

/// Packed halves: exact for what f16 holds, else one of the two neighbours; denormals may be zero.
fn check_packed(wide: &[[f32; 2]], buffers: &Buffers, found: &mut Findings) {
    let mut not_nearest = 0;
    for (x, packed) in wide.iter().zip(words(buffers, "out")) {
        for (x, bits) in x.iter().zip([packed as u16, (packed >> 16) as u16]) {
            let (got, nearest) = (half::f16::from_bits(bits).to_f32(), half::f16::from_f32(*x).to_f32());
            if got == nearest || (x.abs() < 6.2e-5 && got == 0.0) {
                continue;
            }
            not_nearest += 1;
            // One unit in the last place of f16 on either side.
            let unit = (x.abs() / 1024.0).max(f32::exp2(-24.0));
            if (got - x).abs() > unit || nearest == *x {
                found.wrong(format!("pack2x16float of {x} is {got}, expected {nearest}"));
            }
        }
    }
    if not_nearest > 0 {
        found.note(format!("{not_nearest} of {} numbers are not packed to the nearest f16", 2 * wide.len()));
    }
}

/// Arithmetic within what WGSL allows: sums and products rounded once, quotients to 2.5 units of the last place, roots as the
/// inverse of an inverse root, exp and log to some units.
fn accuracy(pairs: &[[f32; 2]], buffers: &Buffers, found: &mut Findings) {
    let ulp = |x: f64| f64::exp2((x.abs() as f32).max(f32::MIN_POSITIVE).log2().floor().into()) * f64::exp2(-23.0);
    for (&[x, y], out) in pairs.iter().zip(words(buffers, "out").chunks_exact(8)) {
        let (a, b) = (f64::from(x), f64::from(y));
        let got = |i: usize| f64::from(f32::from_bits(out[i]));
        let log = (f64::from(x.abs() + 1.5)).ln();
        for (i, what, exact, allowed) in [
            (0, "x * y", a * b, 1.0 * ulp(a * b)),
            (1, "x + y", a + b, 1.0 * ulp(a + b)),
            (2, "x - y", a - b, 1.0 * ulp(a - b)),
            (3, "x / y", a / b, 2.5 * ulp(a / b)),
            // sqrt may be 1 / inverseSqrt(x), with 2 units of the latter.
            (4, "sqrt |x|", a.abs().sqrt(), 5.0 * ulp(a.abs().sqrt())),
            (5, "exp x", a.exp(), (3.0 + 2.0 * a.abs()) * ulp(a.exp())),
            (6, "log (|x| + 1.5)", log, (3.0 * ulp(log)).max(f64::exp2(-21.0))),
            (7, "floor x + fract x", a, 2.0 * ulp(a) + f64::exp2(-24.0)),
        ] {
            found.at_most(
                &format!("{what} of {x} and {y} is {}, expected {exact}; off by", got(i)),
                (got(i) - exact).abs(),
                allowed,
            );
        }
    }
}
