//! Random numbers: the published words, the same bits on the device and the CPU, the moments of their distributions.

use crate::common::{open, tiers};
use pollster::block_on;
use sdmoe::gpu::GpuOptions;
use sdmoe::linalg::random;
use sdmoe::tensor::Tensor;

#[test]
fn philox_gives_the_published_words() {
    // Random123's known answers, kat_vectors, philox4x32 with 10 rounds.
    assert_eq!(random::philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(random::philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(
        random::philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn device_and_cpu_draw_the_same_bits() {
    let small = GpuOptions::default().max_binding_bytes(1024);
    for gpu in tiers().into_iter().chain([open(&small)]) {
        for (count, seed, stream) in [(1, 0, 0), (1003, 7, 1), (4099, u64::MAX - 5, 9)] {
            let y = Tensor::empty_f32(&gpu, [count]).unwrap();
            random::fill_normal(&y, seed, stream, 0.02).unwrap();
            let want: Vec<u32> =
                (0..count as u32).map(|i| (random::normal(seed, stream, i) * 0.02).to_bits()).collect();
            let got: Vec<u32> = block_on(y.to_f32()).unwrap().iter().map(|x| x.to_bits()).collect();
            assert_eq!(got, want, "normal, seed {seed}");
            random::fill_uniform(&y, seed, stream).unwrap();
            let want: Vec<u32> = (0..count as u32).map(|i| random::uniform(seed, stream, i).to_bits()).collect();
            let got: Vec<u32> = block_on(y.to_f32()).unwrap().iter().map(|x| x.to_bits()).collect();
            assert_eq!(got, want, "uniform, seed {seed}");
        }
    }
}

#[test]
fn random_numbers_have_the_moments_of_their_distribution() {
    let count = 1 << 20;
    let draw = |f: fn(u64, u32, u32) -> f32, seed, stream| -> Vec<f64> {
        (0..count).map(|i| f64::from(f(seed, stream, i))).collect()
    };
    let mean = |x: &[f64], p: i32| x.iter().map(|v| v.powi(p)).sum::<f64>() / f64::from(count);
    // Five standard errors: sqrt(moment 2p - (moment p)^2) / 1024.
    let x = draw(random::normal, 3, 0);
    for (p, want, deviation) in [(1, 0.0, 1.0), (2, 1.0, 1.4), (3, 0.0, 3.9), (4, 3.0 - 0.0206, 9.8)] {
        let got = mean(&x, p);
        assert!((got - want).abs() < 5.0 * deviation / 1024.0, "normal, moment {p}: {got}");
    }
    // The share beyond one, two and three standard deviations, as of a Gaussian.
    for (limit, share) in [(1.0, 0.317_31), (2.0, 0.045_500), (3.0, 0.002_700)] {
        let got = x.iter().filter(|v| v.abs() > limit).count() as f64 / f64::from(count);
        assert!((got - share).abs() < 5.0 * share.sqrt() / 1024.0 + 0.02 * share, "beyond {limit}: {got}");
    }
    let y = draw(random::normal, 3, 1);
    let correlation = x.iter().zip(&y).map(|(a, b)| a * b).sum::<f64>() / f64::from(count);
    assert!(correlation.abs() < 5.0 / 1024.0, "streams: {correlation}");
    let lag = x.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / f64::from(count);
    assert!(lag.abs() < 5.0 / 1024.0, "neighbours: {lag}");
    let u = draw(random::uniform, 3, 0);
    assert!(u.iter().all(|v| (0.0..1.0).contains(v)));
    assert!((mean(&u, 1) - 0.5).abs() < 5.0 * 0.29 / 1024.0 && (mean(&u, 2) - 1.0 / 3.0).abs() < 5.0 * 0.3 / 1024.0);
}
