//! Attention to a cache of keys and values against f64, and what a step of generation may make.

use crate::common::{download, gpu, open, own_tiers, small_bindings, tiers};
use sdmoe::autograd::check::{Tolerance, compare};
use sdmoe::autograd::{Array, Op};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::low_level::kernels::columns::write_rows;
use sdmoe::ops::{Attention, CachedAttention};
use sdmoe::tensor::{DType, Tensor};

fn stored(gpu: &Gpu, x: &Array, dtype: DType) -> Tensor {
    let tensor = Tensor::empty(gpu, &x.shape, dtype).unwrap();
    tensor.write_f32(&x.to_f32()).unwrap();
    tensor
}

/// `x` as it is stored.
fn seen(x: &Array, dtype: DType) -> Array {
    if dtype == DType::F16 { x.map(|&v| f64::from(half::f16::from_f64(v))) } else { x.clone() }
}

/// Compares with the reference; rows of the cache that are not filled are NaN.
fn passes(gpu: &Gpu, op: CachedAttention, (n, past): (usize, usize), dtype: DType, capacity: usize) {
    let what = format!("{op:?}, {n} after {past} of {capacity}, {dtype:?} on {gpu:?}");
    let filled = |width: usize, seed| seen(&Array::random(&[past + n, width], seed), dtype);
    let (k, v) = (filled(op.kv_heads * op.k_dim, 1), filled(op.kv_heads * op.v_dim, 2));
    let q = seen(&Array::random(&[n, op.heads * op.k_dim], 3), dtype);
    let cache = |x: &Array| {
        let mut data = x.data.clone();
        data.resize(capacity * x.cols(), f64::NAN);
        stored(gpu, &Array::new(&[capacity, x.cols()], data), dtype)
    };
    let y = op.forward(&stored(gpu, &q, dtype), &cache(&k), &cache(&v), past);
    let y = y.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(y.dtype(), dtype);
    let tolerance = if dtype == DType::F16 { Tolerance::half(1.0, 0.0) } else { Tolerance::default() };
    compare(&what, &download(&y), &op.reference(&q, &k, &v, past), tolerance.forward).unwrap();
}

const WIDTHS: [[usize; 2]; 5] = [[24, 16], [64, 64], [128, 128], [192, 128], [7, 70]];

#[test]
fn new_rows_see_the_cache_up_to_their_own_positions() {
    for gpu in tiers() {
        let f16 = gpu.require_f16().is_ok();
        for (i, [k_dim, v_dim]) in WIDTHS.into_iter().enumerate() {
            for (j, n) in [1, 64].into_iter().enumerate() {
                for (l, past) in [0, 63, 500].into_iter().enumerate() {
                    let share = [1, 2, 8][(i + j + l) % 3];
                    let whole = CachedAttention::new(2 * share, 2, k_dim, v_dim);
                    passes(&gpu, whole, (n, past), DType::F32, past + n + 13);
                    let window = Some([1, 33, 300][(i + l) % 3]);
                    let scaled = CachedAttention { window, scale: Some(0.2), ..whole };
                    passes(&gpu, scaled, (n, past), if f16 { DType::F16 } else { DType::F32 }, past + n + 600);
                }
            }
        }
    }
}

#[test]
fn many_query_heads_of_one_key_head_and_long_caches_are_split() {
    for gpu in tiers() {
        passes(&gpu, CachedAttention::new(1, 1, 8, 8), (1, 30_000), DType::F32, 40_000);
        passes(&gpu, CachedAttention::new(1, 1, 6, 5), (2, 20_000), DType::F32, 20_002);
        passes(&gpu, CachedAttention::new(33, 1, 32, 32), (3, 90), DType::F32, 100);
        passes(
            &gpu,
            CachedAttention { window: Some(100), ..CachedAttention::new(4, 2, 8, 8) },
            (1, 9_000),
            DType::F32,
            9_001,
        );
    }
    for gpu in small_bindings(1 << 16) {
        // 700 rows of 64 numbers are 175 KiB.
        passes(&gpu, CachedAttention::new(4, 2, 32, 32), (1, 600), DType::F32, 700);
        passes(
            &gpu,
            CachedAttention { window: Some(300), ..CachedAttention::new(4, 2, 32, 16) },
            (5, 600),
            DType::F32,
            700,
        );
    }
}

#[test]
fn without_a_past_it_is_the_attention_of_training() {
    let (q, k) = (Array::random(&[9, 32], 1), Array::random(&[9, 16], 2));
    let v = Array::random(&[9, 16], 3);
    for window in [None, Some(4)] {
        let training = Attention { window, ..Attention::new(4, 2, 8, 9) };
        let cached = CachedAttention { window, ..CachedAttention::new(4, 2, 8, 8) };
        let want = training.reference(&[q.clone(), k.clone(), v.clone()]);
        compare("reference", &cached.reference(&q, &k, &v, 0).to_f32(), &want, 1e-6).unwrap();
    }
}

#[test]
fn a_step_makes_no_pipeline_no_buffer_and_no_bind_group() {
    for gpu in own_tiers() {
        let op = CachedAttention::new(8, 2, 32, 32);
        let cache = [64, 64].map(|width| Tensor::persistent(&gpu, [700, width], DType::F32).unwrap());
        let new = |width| stored(&gpu, &Array::random(&[1, width], 1), DType::F32);
        let (q, rows) = (new(256), new(64));
        let step = |past: usize| {
            cache.iter().for_each(|cache| write_rows(&rows, cache, past).unwrap());
            drop(op.forward(&q, &cache[0], &cache[1], past).unwrap());
            gpu.flush().unwrap();
        };
        (0..3).for_each(step);
        let made = || {
            let counters = gpu.counters();
            (counters.pipelines_created, counters.buffers_created, counters.bind_groups_created)
        };
        let before = made();
        (3..700).for_each(step);
        assert_eq!(before, made(), "{gpu:?}");
        let want = download(&rows).repeat(700);
        cache.iter().for_each(|cache| assert!(download(cache) == want, "{gpu:?}"));
    }
}

#[test]
fn the_same_step_gives_the_same_bits() {
    for gpu in tiers() {
        let op = CachedAttention::new(8, 2, 64, 64);
        let [q, k, v] =
            [[1, 512], [1000, 128], [1000, 128]].map(|shape| stored(&gpu, &Array::random(&shape, 4), DType::F32));
        let run = || download(&op.forward(&q, &k, &v, 999).unwrap()).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let first = run();
        assert!((0..3).all(|_| run() == first), "{gpu:?}");
    }
}

#[test]
fn rows_are_written_at_any_position_of_a_cache() {
    let devices = tiers().into_iter().chain([open(&GpuOptions::default().max_binding_bytes(1 << 16))]);
    for gpu in devices {
        let dtypes: &[DType] = if gpu.require_f16().is_ok() { &[DType::F32, DType::F16] } else { &[DType::F32] };
        for (&dtype, width) in dtypes.iter().flat_map(|dtype| [1, 5, 32].map(|width| (dtype, width))) {
            let (capacity, n) = (3000, 700);
            for at in [0, 1, 2300] {
                let cache = stored(&gpu, &Array::from_fn(&[capacity, width], |_| 0.5), dtype);
                let rows = seen(&Array::random(&[n, width], 1), dtype);
                write_rows(&stored(&gpu, &rows, dtype), &cache, at).unwrap();
                let mut want = vec![0.5; capacity * width];
                want[at * width..(at + n) * width].copy_from_slice(&rows.to_f32());
                assert!(download(&cache) == want, "{n} rows of {width} at {at}, {dtype:?} on {gpu:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let gpu = gpu();
    let x = |rows: usize, columns: usize| Tensor::zeros(&gpu, [rows, columns]).unwrap();
    let op = CachedAttention::new(4, 2, 8, 4);
    let message = |op: CachedAttention, q: &Tensor, k: &Tensor, v: &Tensor, past| {
        op.forward(q, k, v, past).unwrap_err().to_string()
    };
    let (q, k, v) = (x(2, 32), x(10, 16), x(10, 8));
    assert!(op.forward(&q, &k, &v, 8).is_ok());
    assert!(message(op, &q, &k, &v, 9).contains("past + n <= capacity"));
    assert!(message(op, &q, &k, &v, usize::MAX).contains("past + n <= capacity"));
    assert!(message(op, &k, &k, &v, 0).contains("q [n, 32]"));
    assert!(message(op, &q, &k, &x(9, 8), 0).contains("v [capacity, 8]"));
    assert!(message(CachedAttention { kv_heads: 3, ..op }, &q, &k, &v, 0).contains("divide"));
    assert!(message(CachedAttention { window: Some(0), ..op }, &q, &k, &v, 0).contains("window >= 1"));
    assert!(write_rows(&x(3, 16), &k, 8).unwrap_err().to_string().contains("write_rows"));
    assert!(write_rows(&x(3, 15), &k, 0).unwrap_err().to_string().contains("write_rows"));
}
