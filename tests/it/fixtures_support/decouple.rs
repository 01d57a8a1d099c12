//! Group `decouple/`: models whose experts were split into a common part and unique ones, the function unchanged.

use std::path::Path;

use pollster::block_on;
use sdmoe::autograd::{Array, Tape};
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::{ExpertMatrix, SpectralConfig};
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::optim::CommonPart;
use sdmoe::tensor::Tensor;
use sdmoe::train::decouple::decouple;
use sdmoe::train::pretrained::{HostParameter, Pretrained};

use super::{Case, root, tensors};

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The hub's name of a kind.
fn hub(matrix: ExpertMatrix) -> String {
    format!("{}_proj", matrix.name())
}

/// Runs a case: the experts that it has itself, or else those of the model that it names.
pub fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    match case.meta["model"].as_str() {
        Some(model) => of_model(gpu, case, &root().join(model)),
        None => planted(gpu, case),
    }
}

fn settings(case: &Case) -> Result<SpectralConfig, String> {
    let rank = case.need(&["k"])? as usize;
    Ok(with!(SpectralConfig { rank, ..SpectralConfig::default() }))
}

/// Compares a common part that has a gap behind it entry by entry.
fn planted(gpu: &Gpu, case: &Case) -> Result<(), String> {
    for matrix in ExpertMatrix::ALL {
        let part = |name: &str| case.tensor(&format!("{}.{name}", hub(matrix)));
        let (mean, want) = (part("mean")?, part("W_c")?);
        let shape = [1, mean.shape[0], mean.shape[1]];
        let uploaded: Vec<f32> = mean.data.iter().map(|x| *x as f32).collect();
        let uploaded = Tensor::from_f32(gpu, shape, &uploaded).map_err(text)?;
        let got = CommonPart::of(&uploaded, &settings(case)?, 1).map_err(text)?;
        let w_c = block_on(got.w_c.to_f32()).map_err(text)?;
        // Both are of order 0.3; the gap is 4 and more, so that rounding moves nothing but itself.
        close(&format!("{} W_c", hub(matrix)), &w_c, &want.data, 2e-6)?;
        let singular = block_on(got.singular.to_f32()).map_err(text)?;
        close("S", &singular, &part("S")?.data[..singular.len()], 5e-6)?;
        for (w, w_u) in part("W")?.data.chunks(w_c.len()).zip(part("W_u")?.data.chunks(w_c.len())) {
            let unique: Vec<f32> = w.iter().zip(&w_c).map(|(w, c)| *w as f32 - c).collect();
            close(&format!("{} W_u", hub(matrix)), &unique, w_u, 3e-6)?;
        }
    }
    Ok(())
}

fn close(name: &str, got: &[f32], want: &[f64], tolerance: f64) -> Result<(), String> {
    let worst = got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    if worst <= tolerance && got.len() == want.len() { Ok(()) } else { Err(format!("{name}: off by {worst:e}")) }
}

/// Decouples a folder, and compares what was written with the best residual, the merged weights and the logits.
fn of_model(gpu: &Gpu, case: &Case, weights: &Path) -> Result<(), String> {
    let copy = tempfile::tempdir().map_err(text)?;
    let (from, out) = (copy.path().join("from"), copy.path().join("out"));
    std::fs::create_dir(&from).map_err(text)?;
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(weights.with_file_name(file), from.join(file)).map_err(text)?;
    }
    let source = Pretrained::open(&from).map_err(text)?;
    let decoupled = block_on(decouple(gpu, &source, &settings(case)?, 1)).map_err(text)?;
    decoupled.save(&out).map_err(text)?;
    for m in decoupled.matrices() {
        let name = format!("layers.{}.moe.experts.{}", m.layer, m.matrix.name());
        let experts: &HostParameter = decoupled.parameters().iter().find(|p| p.name == name).ok_or("no experts")?;
        let count = experts.shape[0];
        let size = m.common.w_c.len();
        let mean = |i: usize| experts.values.iter().skip(i).step_by(size).map(|w| f64::from(*w)).sum::<f64>();
        let residual: f64 = (0..size).map(|i| (mean(i) / count as f64 - f64::from(m.common.w_c[i])).powi(2)).sum();
        let all = &case.tensor(&format!("layer{}.{}.S", m.layer, hub(m.matrix)))?.data;
        let best: f64 = all[m.common.rank..].iter().map(|s| s * s).sum();
        if residual.sqrt() > best.sqrt() * 1.001 {
            return Err(format!("{name}: residual {}, the least is {}", residual.sqrt(), best.sqrt()));
        }
    }
    let again = Pretrained::open(&out).map_err(text)?;
    if again.read().map_err(text)? != source.read().map_err(text)? {
        return Err("the merged weights are not those of the source".into());
    }
    let expected = tensors(&weights.with_file_name("expected.safetensors"))?;
    let input: &Array = expected.get("input_ids").ok_or("no input_ids")?;
    let model = again.load(gpu).map_err(text)?;
    let tokens = Tensor::from_u32(gpu, [input.data.len()], &input.to_u32()).map_err(text)?;
    let mut tape = Tape::new(gpu);
    let pass = Pass::plain(model.params(), input.cols(), Mode::Inference);
    let output = model.forward(&mut tape, &pass, &tokens).map_err(text)?;
    let logits = block_on(tape.value(output.logits).to_f32()).map_err(text)?;
    close("logits", &logits, &expected["logits"].data, 1e-5)
}
