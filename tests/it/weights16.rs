//! Models of published families with weights of 16 bits on the device: the numbers of the files, half the memory, and what f32
//! weights compute.

use std::path::Path;

use crate::common::families::{config, tensors, value, write_folder};
use crate::common::{download, own_gpu, small_bindings, tiers};
use sdmoe::autograd::{Array, Tape};
use sdmoe::checkpoint::FamilyCheckpoint;
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::nn::families::Parameter;
use sdmoe::nn::generate::Generator;
use sdmoe::nn::model::Model;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::nn::sample::Sampling;
use sdmoe::optim::SpectralInit;
use sdmoe::tensor::{DType, Tensor};
use sdmoe::train::config::RunConfig;
use sdmoe::train::pretrained::{Pretrained, WeightType};
use sdmoe::train::trainer::Trainer;
use serde_json::Value;

/// A folder whose tensors are of the types that `dtype` gives by name.
fn folder(dir: &Path, family: &str, dtype: impl Fn(&str) -> &'static str) -> Value {
    let config = config(family, |config| {
        // Small numbers, so that what is off is not lost in what is large.
        config["rms_norm_eps"] = 1e-5.into();
    });
    let all = [tensors(&config, "F32"), tensors(&config, "F16"), tensors(&config, "BF16")];
    let number = |name: &str| ["F32", "F16", "BF16"].iter().position(|d| *d == dtype(name)).unwrap();
    let chosen: Vec<_> = (0..all[0].len()).map(|i| all[number(&all[0][i].name)][i].clone()).collect();
    write_folder(dir, &config, &chosen, 2);
    config
}

fn load(gpu: &Gpu, dir: &Path, weights: WeightType) -> Model {
    Pretrained::open(dir).unwrap().load_for_inference(gpu, weights).unwrap_or_else(|e| panic!("{e}"))
}

fn logits(gpu: &Gpu, model: &Model, tokens: &[u32]) -> Vec<f32> {
    let tokens = Tensor::from_u32(gpu, [tokens.len()], tokens).unwrap();
    let mut tape = Tape::new(gpu);
    let pass = Pass::plain(model.params(), tokens.numel(), Mode::Inference);
    let output = model.forward(&mut tape, &pass, &tokens).unwrap();
    download(tape.value(output.logits))
}

fn continuation(gpu: &Gpu, model: &Model) -> Vec<u32> {
    let mut generator = Generator::new(gpu, model, &[1, 5, 9], 64).unwrap();
    (0..12).map(|_| pollster::block_on(generator.next(&Sampling::greedy(), 0.0)).unwrap()).collect()
}

#[test]
fn the_numbers_and_what_is_computed_are_those_of_weights_in_f32() {
    for (family, stored) in [("mixtral", "BF16"), ("deepseek_v2", "BF16"), ("qwen2_moe", "F16"), ("olmoe", "F16")] {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), family, |_| stored);
        for gpu in tiers() {
            let (half, wide) = [WeightType::AsStored, WeightType::F32].map(|w| load(&gpu, dir.path(), w)).into();
            let (mut in_16_bits, mut others) = (0, 0);
            for (p, q) in half.params().iter().zip(wide.params().iter()) {
                assert_eq!(q.value.dtype(), DType::F32);
                let fours = p.value.dims().len() > 1 && p.value.dims().iter().rev().take(2).all(|n| n % 4 == 0);
                let expected = match stored {
                    _ if !fours => DType::F32,
                    "F16" => DType::F16,
                    _ => DType::Bf16,
                };
                assert_eq!(p.value.dtype(), expected, "{}", p.name);
                assert_eq!(download(&p.value), download(&q.value), "{family}: {}", p.name);
                *if fours { &mut in_16_bits } else { &mut others } += p.value.numel();
            }
            assert!(in_16_bits > 30 * others, "{family}: {in_16_bits} numbers of 16 bits, {others} others");
            let tokens: Vec<u32> = (0..23).map(|i| i * 37 % 96).collect();
            let (got, want) = (logits(&gpu, &half, &tokens), logits(&gpu, &wide, &tokens));
            let size = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            // The same numbers in f32, added in an order that may be another.
            let off = got.iter().zip(&want).fold(0.0f32, |most, (x, y)| most.max((x - y).abs()));
            assert!(size > 0.1 && off <= 2e-5 * size, "{family}, {:?}: off by {off} of {size}", gpu.tier());
            assert_eq!(continuation(&gpu, &half), continuation(&gpu, &wide), "{family}, {:?}", gpu.tier());
        }
    }
}

#[test]
fn each_parameter_has_the_type_that_all_its_tensors_have() {
    let dir = tempfile::tempdir().unwrap();
    // One expert of one bank is of another type.
    let other = "model.layers.1.block_sparse_moe.experts.3.w1.weight";
    folder(dir.path(), "mixtral", |name| match name {
        _ if name == other => "F16",
        _ if name.contains("embed_tokens") => "F32",
        _ => "BF16",
    });
    let checkpoint = FamilyCheckpoint::open(dir.path()).unwrap();
    let types = checkpoint.dtypes();
    for (Parameter { name, .. }, dtype) in checkpoint.map().parameters.iter().zip(types) {
        let mixed = ["layers.1.moe.experts.gate", "embed.weight"].contains(&name.as_str());
        assert_eq!(dtype, if mixed { DType::F32 } else { DType::Bf16 }, "{name}");
    }
    let gpu = own_gpu();
    let model = load(&gpu, dir.path(), WeightType::AsStored);
    let bank = model.params().iter().find(|p| p.name == "layers.1.moe.experts.gate").unwrap();
    assert_eq!(bank.value.dtype(), DType::F32);
    let [_, m, n] = *bank.value.dims() else { panic!("expected a bank, got {:?}", bank.value) };
    // Transposed on the hub: element [o, i] is i + o m.
    assert_eq!(download(&bank.value)[3 * m * n + 5 * n + 2], value(other, 2 * m + 5));
}

#[test]
fn memory_is_half_of_that_in_f32_and_numbers_of_other_files_are_rounded() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), "mixtral", |_| "BF16");
    let gpu = own_gpu();
    let taken = |weights| {
        let before = gpu.counters().bytes_allocated;
        let model = load(&gpu, dir.path(), weights);
        let bytes: u64 = model.params().iter().map(|p| p.value.bytes()).sum();
        (bytes, gpu.counters().bytes_allocated - before)
    };
    let ((half, half_taken), (wide, _)) = (taken(WeightType::AsStored), taken(WeightType::F32));
    assert!(
        (half as f64) < 0.52 * wide as f64 && half_taken as f64 <= 1.1 * half as f64,
        "{half_taken}, {half}, {wide}"
    );
    // A model may be asked for in types that its files do not have.
    let checkpoint = FamilyCheckpoint::open(dir.path()).unwrap();
    let rounded = Model::for_inference_in(&gpu, checkpoint.config(), |_| DType::F16).unwrap();
    checkpoint.load_into(&rounded).unwrap();
    let bank = rounded.params().iter().find(|p| p.name.ends_with("experts.down")).unwrap();
    assert_eq!(bank.value.dtype(), DType::F16);
    let wide = load(&gpu, dir.path(), WeightType::F32);
    let bank_wide = wide.params().iter().find(|p| p.name == bank.name).unwrap();
    // These numbers are exact in both.
    assert_eq!(download(&bank.value), download(&bank_wide.value));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), "mixtral", |_| "BF16");
    let gpu = own_gpu();
    let model = load(&gpu, dir.path(), WeightType::AsStored);
    let config = RunConfig::continuing(model.config(), 32);
    let message = Trainer::with_model(&gpu, &config, model, SpectralInit::Fresh).err().unwrap().to_string();
    assert!(message.contains("expected a model with gradients"), "{message}");
    let mut large = config.model.clone();
    (large.vocab, large.d_model) = (1 << 20, 1 << 14);
    let before = gpu.counters().bytes_allocated;
    let message = Model::for_inference_in(&gpu, &large, |_| DType::Bf16).unwrap_err().to_string();
    assert!(message.contains("embed.weight: [1048576, 16384] in Bf16 takes 32 GiB in one buffer"), "{message}");
    assert_eq!(gpu.counters().bytes_allocated, before);
    let message = Model::for_inference_in(&gpu, &config.model, |_| DType::U32).unwrap_err().to_string();
    assert!(message.contains("expected weights in f32, f16 or bf16"), "{message}");
    let [a, b, c] = [([4, 6], DType::F32), ([6, 8], DType::Bf16), ([4, 8], DType::F32)]
        .map(|(shape, dtype)| Tensor::empty(&gpu, shape, dtype).unwrap());
    let message = gemm(Trans::N, Trans::N, 1.0, &a, &b, 0.0, &c).unwrap_err().to_string();
    assert!(message.contains("rows of multiples of 4 elements"), "{message}");
}

#[test]
fn matrices_beyond_a_binding_are_split() {
    for gpu in small_bindings(16 << 10) {
        // Steps of K, columns of C, and rows of A are cut.
        for (tb, [m, k, n]) in [(Trans::N, [36, 200, 68]), (Trans::T, [36, 200, 68]), (Trans::N, [200, 40, 36])] {
            let a = Array::random(&[m, k], 1);
            let b = Array::random(&[k, n], 2).map(|&x| f64::from(half::bf16::from_f64(x)));
            let stored = if tb == Trans::T { b.transpose() } else { b.clone() };
            let (ta, tb16, c) = (
                Tensor::from_f32(&gpu, [m, k], &a.to_f32()).unwrap(),
                Tensor::empty(&gpu, &stored.shape, DType::Bf16).unwrap(),
                Tensor::empty_f32(&gpu, [m, n]).unwrap(),
            );
            tb16.write_f32(&stored.to_f32()).unwrap();
            gemm(Trans::N, tb, 1.0, &ta, &tb16, 0.0, &c).unwrap();
            let (want, bound) = (a.matmul(&b), a.map(|x| x.abs()).matmul(&b.map(|x| x.abs())));
            for (i, x) in download(&c).into_iter().enumerate() {
                let allowed = 2.0 * (k + 2) as f64 * 6e-8 * bound.data[i];
                let off = (f64::from(x) - want.data[i]).abs();
                assert!(off <= allowed, "{:?} {tb:?}: element {i} is off by {off}, allowed {allowed}", gpu.tier());
            }
        }
    }
    // A table and banks of experts of several bindings: a whole model.
    for gpu in small_bindings(40 << 10) {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), "mixtral", |_| "BF16");
        let (half, wide) = [WeightType::AsStored, WeightType::F32].map(|w| load(&gpu, dir.path(), w)).into();
        let tokens: Vec<u32> = (0..9).map(|i| i * 37 % 96).collect();
        let (got, want) = (logits(&gpu, &half, &tokens), logits(&gpu, &wide, &tokens));
        let size = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(got.iter().zip(&want).all(|(x, y)| (x - y).abs() <= 2e-5 * size), "{:?}", gpu.tier());
    }
}
