//! Reading a model of 0.6 GB in bf16, transposed, against reading its bytes from the page cache: widened to f32 in host memory, and on
//! the default adapter's device as it is and in f32.
//!
//!     cargo bench --no-default-features --features files --bench loading                  # the best of five rounds
//!
//! The model is one layer of Qwen1.5-MoE-A2.7B's shapes with 26 experts and a vocabulary of 8192.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::time::Instant;

use sdmoe::checkpoint::FamilyCheckpoint;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::families::{FamilyModel, Layout, TensorMap};
use sdmoe::train::pretrained::{Pretrained, WeightType};
use serde_json::{Map, json};

const CONFIG: &str = r#"{"model_type": "qwen2_moe", "vocab_size": 8192, "hidden_size": 2048, "num_hidden_layers": 1,
    "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 5632, "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632, "num_experts": 26, "num_experts_per_tok": 4, "max_position_embeddings": 8192}"#;

fn write(folder: &Path, layout: Layout) -> std::io::Result<u64> {
    let model = FamilyModel::parse(CONFIG).expect("a good config");
    let (mut header, mut end) = (Map::new(), 0u64);
    for tensor in TensorMap::new(model.family, &model.config, layout).tensors {
        let bytes = 2 * tensor.shape.iter().product::<usize>() as u64;
        let entry = json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [end, end + bytes] });
        header.insert(tensor.name, entry);
        end += bytes;
    }
    let header = serde_json::Value::Object(header).to_string();
    std::fs::write(folder.join("config.json"), CONFIG)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let block: Vec<u8> = (0..1u32 << 19).flat_map(|i| (0x3c00 + (i * 37 % 512) as u16).to_le_bytes()).collect();
    let mut left = end as usize;
    while left > 0 {
        let part = left.min(block.len());
        file.write_all(&block[..part])?;
        left -= part;
    }
    file.flush()?;
    Ok(end)
}

/// The best of five rounds, seconds.
fn best(mut round: impl FnMut()) -> f64 {
    let time = |round: &mut dyn FnMut()| {
        let started = Instant::now();
        round();
        started.elapsed().as_secs_f64()
    };
    (0..5).map(|_| time(&mut round)).fold(f64::INFINITY, f64::min)
}

fn main() -> sdmoe::Result<()> {
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()));
    for layout in [Layout::PerExpert, Layout::Fused] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        let bytes = write(folder.path(), layout).expect("room on the disk") as f64;
        let mut block = vec![0; 1 << 20];
        let raw = best(|| {
            let mut file = File::open(folder.path().join("model.safetensors")).expect("the file");
            while file.read(&mut block).expect("the file is whole") > 0 {}
        });
        let checkpoint = FamilyCheckpoint::open(folder.path())?;
        let loading = best(|| {
            let mut numbers = 0;
            let read = checkpoint.read(|_, _, values| {
                numbers += values.len();
                Ok(())
            });
            read.expect("a good model");
            assert_eq!(numbers as f64, bytes / 2.0);
        });
        println!(
            "{}: {:.0} MB; bytes from the page cache {:.2} GB/s, as parameters {:.2} GB/s ({:.2} of it)",
            layout.name(),
            bytes / 1e6,
            bytes / raw / 1e9,
            bytes / loading / 1e9,
            raw / loading
        );
        let Ok(gpu) = &gpu else {
            println!("    no adapter: loading to a device is left out");
            continue;
        };
        let pretrained = Pretrained::open(folder.path())?;
        for weights in [WeightType::AsStored, WeightType::F32] {
            let loading = best(|| {
                let model = pretrained.load_for_inference(gpu, weights).expect("a good model");
                // The last part is on the device, too.
                pollster::block_on(model.params().iter().last().expect("parameters").value.to_f32()).expect("a device");
                drop(model);
                gpu.trim().expect("a device");
            });
            println!(
                "    on {}, {weights:?}: {:.2} GB/s ({:.2} of the page cache)",
                gpu.adapter().name,
                bytes / loading / 1e9,
                raw / loading
            );
        }
    }
    Ok(())
}
