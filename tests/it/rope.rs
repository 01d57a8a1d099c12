//! Rotary positions: pairings, frequencies, factors, positions that go on; forward and backward in every tier.

use crate::common::{download, gpu, tiers};
use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check, compare};
use sdmoe::autograd::{Array, Op};
use sdmoe::gpu::Gpu;
use sdmoe::ops::{Pairing, Rope, RotaryTable, Yarn};
use sdmoe::tensor::Tensor;

fn table(gpu: &Gpu, head_dim: usize, theta: f64) -> RotaryTable {
    RotaryTable::new(gpu, head_dim, theta).unwrap()
}

fn passes(gpu: &Gpu, op: Rope, batch: usize, seed: u64) {
    let what = format!("{op:?} on {gpu:?}");
    let x = Array::random(&[batch * op.seq, op.heads * op.table.head_dim()], seed);
    block_on(check(gpu, op.clone(), &[Input::Tracked(x.clone())], Tolerance::default(), seed))
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    if gpu.require_f16().is_ok() {
        let tolerance = Tolerance::half(1.0, 1.0);
        block_on(check(gpu, op, &[Input::Half(x)], tolerance, seed)).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

const SHAPES: [[usize; 4]; 7] =
    [[1, 1, 1, 2], [3, 2, 1, 6], [2, 31, 3, 8], [1, 33, 6, 32], [2, 65, 1, 48], [1, 5, 3, 128], [1, 7, 2, 256]];

#[test]
fn pairs_of_halves_are_turned_in_every_head() {
    for gpu in tiers() {
        for (i, [batch, seq, heads, head_dim]) in SHAPES.into_iter().enumerate() {
            for theta in [1e4, 1e6, 1.0] {
                passes(&gpu, Rope::new(&table(&gpu, head_dim, theta), heads, seq), batch, i as u64);
            }
        }
    }
}

#[test]
fn pairs_of_neighbours_are_turned_in_every_head_from_any_position_on_with_a_factor() {
    for gpu in tiers() {
        for (i, [batch, seq, heads, head_dim]) in SHAPES.into_iter().enumerate() {
            let plain = Rope::new(&table(&gpu, head_dim, 1e4), heads, seq);
            passes(&gpu, Rope { pairing: Pairing::Neighbours, ..plain.clone() }, batch, i as u64);
            passes(&gpu, Rope { first: 4001, scaling: 1.25, ..plain.clone() }, batch, i as u64);
            passes(&gpu, Rope { pairing: Pairing::Neighbours, first: 77, scaling: 0.75, ..plain }, batch, i as u64);
        }
    }
}

#[test]
fn far_positions_are_exact() {
    for gpu in tiers() {
        let x = Array::random(&[20_011, 16], 5);
        let t = Tensor::from_f32(&gpu, [20_011, 16], &x.to_f32()).unwrap();
        let plain = Rope::new(&table(&gpu, 16, 1e4), 1, 20_011);
        let inverse: Vec<f64> = (0..8).map(|i| 1e4f64.powf(-2.0 * f64::from(i) / 16.0)).collect();
        let given = RotaryTable::from_inverse_frequencies(&gpu, &inverse).unwrap();
        for op in [plain.clone(), Rope { first: 3_000_000, ..plain }, Rope::new(&given, 1, 20_011)] {
            let y = op.forward(&[&t]).unwrap().output;
            // Eight rounding errors of numbers up to 5, not of angles up to 3,000,000.
            compare("rope", &download(&y), &op.reference(std::slice::from_ref(&x)), 2e-7).unwrap();
        }
    }
}

#[test]
fn a_sequence_that_goes_on_has_the_bits_of_the_whole() {
    for gpu in tiers() {
        let x = Tensor::from_f32(&gpu, [96, 24], &Array::random(&[96, 24], 5).to_f32()).unwrap();
        for pairing in [Pairing::Halves, Pairing::Neighbours] {
            let whole = Rope { pairing, ..Rope::new(&table(&gpu, 12, 1e4), 2, 96) };
            let rest = Rope { first: 32, seq: 64, ..whole.clone() };
            let y = download(&whole.forward(&[&x]).unwrap().output);
            assert_eq!(download(&rest.forward(&[&x.slice(32..96).unwrap()]).unwrap().output), y[32 * 24..]);
        }
    }
}

/// The product of two 32-bit integers, high and low half, by 16-bit parts as WGSL has them.
fn multiply(a: u32, b: u32) -> (u32, u32) {
    let cross = (a >> 16).wrapping_mul(b & 0xffff).wrapping_add((a & 0xffff).wrapping_mul(b & 0xffff) >> 16);
    let other = (a & 0xffff).wrapping_mul(b >> 16).wrapping_add(cross & 0xffff);
    let high = (a >> 16).wrapping_mul(b >> 16).wrapping_add(cross >> 16).wrapping_add(other >> 16);
    (high, a.wrapping_mul(b))
}

/// A frequency as a chain of products of the powers of theta for the bits of its number: how a shader computed it.
fn chain(i: u32, head_dim: usize, theta: f64) -> [u32; 2] {
    let mut f = (0x28be_60dbu32, 0x9391_054au32);
    for bit in (0..7).filter(|bit| i >> bit & 1 == 1) {
        let power = theta.powf(-2.0 * 2f64.powi(bit) / head_dim as f64);
        let fraction = (power * 2f64.powi(64)) as u64;
        let g = ((fraction >> 32) as u32, fraction as u32);
        let top = multiply(f.0, g.0);
        let middle = top.1.wrapping_add(multiply(f.0, g.1).0);
        let low = middle.wrapping_add(multiply(f.1, g.0).0);
        f = (top.0 + u32::from(middle < top.1) + u32::from(low < middle), low);
    }
    [f.0, f.1]
}

#[test]
fn a_tables_fractions_are_the_products_that_models_were_trained_with_to_the_bit() {
    let gpu = gpu();
    for head_dim in [2, 4, 6, 24, 32, 48, 64, 96, 128, 192, 256] {
        for theta in [1.0, 500.0, 1e4, 1e6, 1e12] {
            let table = table(&gpu, head_dim, theta);
            let got = block_on(table.fractions().to_u32()).unwrap();
            let want: Vec<u32> = (0..head_dim as u32 / 2).flat_map(|i| chain(i, head_dim, theta)).collect();
            assert_eq!(got, want, "head_dim {head_dim}, theta {theta}");
            let plain = table.inverse_frequencies();
            let given = RotaryTable::from_inverse_frequencies(&gpu, plain).unwrap();
            let given = block_on(given.fractions().to_u32()).unwrap();
            for (i, (words, given)) in want.chunks(2).zip(given.chunks(2)).enumerate() {
                let turns = |words: &[u32]| (f64::from(words[0]) + f64::from(words[1]) / 2f64.powi(32)) / 2f64.powi(32);
                let exact = plain[i] / std::f64::consts::TAU;
                // The last place of an f64's exponent of a small number, and units in the last place of 64 bits.
                let allowed = 1e-13 * exact + 16.0 * 2f64.powi(-64);
                assert!((turns(words) - exact).abs() <= allowed, "pair {i} of {head_dim}, theta {theta}");
                assert!((turns(given) - exact).abs() <= allowed, "pair {i} of {head_dim}, theta {theta}, given");
            }
        }
    }
}

/// The settings of the references that transformers 5.23.0 gave.
fn yarn() -> Yarn {
    with!(Yarn { mscale: Some(0.707), mscale_all_dim: Some(0.707), ..Yarn::new(8.0, 32) })
}

#[test]
fn yarns_frequencies_and_factors_are_those_of_transformers() {
    // hf/deepseek_v2 and hf/deepseek_v3: heads of 24, of which 8 are turned. Stored as f32.
    let want = [1.0, 0.012500000186264515, 0.0012499999720603228, 0.0001250000059371814];
    for (got, want) in yarn().inverse_frequencies(8, 1e4).unwrap().into_iter().zip(want) {
        assert!((got - want).abs() <= 1e-7 * want, "{got}, expected {want}");
    }
    assert_eq!(yarn().rotary_scaling(), 1.0);
    assert!((yarn().score_scaling() / 24f64.sqrt() - 0.268555296902063).abs() < 1e-12);
}

#[test]
fn yarn_keeps_fast_pairs_divides_slow_ones_and_goes_from_one_to_the_other() {
    // DeepSeek V2's own settings: by its formulas the pairs 10 and 23 are the limits.
    let yarn = Yarn::new(40.0, 4096);
    let frequencies = yarn.inverse_frequencies(64, 1e4).unwrap();
    for (i, frequency) in frequencies.into_iter().enumerate() {
        let own = 1e4f64.powf(-2.0 * i as f64 / 64.0);
        let divided = ((i as f64 - 10.0) / 13.0).clamp(0.0, 1.0);
        let want = own * (1.0 - divided) + own / 40.0 * divided;
        assert!((frequency - want).abs() <= 1e-14 * want, "pair {i}: {frequency}, expected {want}");
    }
    // Without mscale the factor on cosines and sines is 0.1 ln 40 + 1, and scores have none.
    assert!((yarn.rotary_scaling() - 1.3688879454113936).abs() < 1e-15);
    assert_eq!(yarn.score_scaling(), 1.0);
    let given = with!(Yarn { attention_factor: Some(1.5), ..yarn });
    assert_eq!(given.rotary_scaling(), 1.5);
    // Not truncated the limits are 10.47 and 22.51.
    let smooth = with!(Yarn { truncate: false, ..yarn });
    let [tenth, last] = [10, 23].map(|i| smooth.inverse_frequencies(64, 1e4).unwrap()[i]);
    assert_eq!(tenth, 1e4f64.powf(-20.0 / 64.0));
    assert_eq!(last, 1e4f64.powf(-46.0 / 64.0) / 40.0);
    // A factor of 1 changes nothing.
    let one = Yarn::new(1.0, 4096);
    assert_eq!((one.rotary_scaling(), one.score_scaling()), (1.0, 1.0));
}

#[test]
fn impossible_settings_are_named() {
    let gpu = gpu();
    let message = |result: sdmoe::Result<RotaryTable>| result.err().unwrap().to_string();
    assert!(message(RotaryTable::new(&gpu, 3, 1e4)).contains("even"));
    assert!(message(RotaryTable::new(&gpu, 0, 1e4)).contains("above 0"));
    assert!(message(RotaryTable::new(&gpu, 4, 0.5)).contains("theta 0.5"));
    assert!(message(RotaryTable::new(&gpu, 4, f64::NAN)).contains("NaN"));
    assert!(message(RotaryTable::from_inverse_frequencies(&gpu, &[])).contains("[]"));
    assert!(message(RotaryTable::from_inverse_frequencies(&gpu, &[1.0, -1.0])).contains("not negative"));
    let x = Tensor::zeros(&gpu, [6, 8]).unwrap();
    let table = RotaryTable::new(&gpu, 4, 1e4).unwrap();
    let message = |op: Rope| op.forward(&[&x]).err().unwrap().to_string();
    assert!(message(Rope::new(&table, 2, 4)).contains("batch"));
    assert!(message(Rope::new(&table, 3, 6)).contains("[batch * 6, 3 * 4]"));
    assert!(message(Rope { first: u32::MAX as usize, ..Rope::new(&table, 2, 6) }).contains("below 2^32"));
    for yarn in [Yarn::new(0.5, 4096), Yarn::new(f64::NAN, 4096), Yarn::new(40.0, 0)] {
        assert!(yarn.inverse_frequencies(64, 1e4).unwrap_err().to_string().contains("yarn"), "{yarn:?}");
    }
    assert!(Yarn::new(40.0, 4096).inverse_frequencies(63, 1e4).is_err());
    assert!(Yarn::new(40.0, 4096).inverse_frequencies(64, 1.0).is_err());
}
