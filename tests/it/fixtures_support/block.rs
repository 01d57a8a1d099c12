//! Group `block/`: a Mixture-of-Experts layer, forward and backward, against PyTorch.
//!
//! Weights are stored `[out, in]` there and transposed once here.

use super::Case;
use pollster::block_on;
use sdmoe::autograd::check::compare;
use sdmoe::autograd::{Array, Tape};
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::{ModelConfig, MoeConfig, SharedGate};
use sdmoe::nn::moe::MoeLayer;
use sdmoe::nn::params::ParamBuilder;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::tensor::Tensor;

/// Outputs are sums over K experts of products over at most a hundred hidden units, relative to the largest element.
const FORWARD: f64 = 2e-6;
/// A gradient sums over all tokens, through three products.
const BACKWARD: f64 = 5e-6;

/// The stored tensor behind a parameter of ours.
fn stored(name: &str) -> &'static str {
    match name {
        "moe.router" => "gate",
        "moe.experts.gate" => "gate_proj",
        "moe.experts.up" => "up_proj",
        "moe.experts.down" => "down_proj",
        "moe.shared.gate" => "shared_gate_proj",
        "moe.shared.up" => "shared_up_proj",
        "moe.shared.down" => "shared_down_proj",
        _ => "shared_expert_gate",
    }
}

/// A stack of matrices, each transposed.
fn transposed(x: &Array) -> Array {
    let [outer @ .., m, n] = x.shape.as_slice() else { return x.clone() };
    let count: usize = outer.iter().product();
    let data = (0..count).flat_map(|i| x.matrix(i).transpose().data).collect();
    Array::new(&[outer, &[*n, *m]].concat(), data)
}

fn settings(case: &Case) -> Result<ModelConfig, String> {
    let (x, gate, index) = (case.tensor("x")?, case.tensor("w.gate_proj")?, case.tensor("topk_index")?);
    let renormalize = case.meta["norm_topk_prob"].as_bool().ok_or("meta.norm_topk_prob: expected a boolean")?;
    let gated = case.tensors.contains_key("w.shared_expert_gate");
    let moe = with!(MoeConfig {
        experts: gate.shape[0],
        top_k: index.cols(),
        d_expert: gate.shape[1],
        d_shared: case.tensors.get("w.shared_gate_proj").map_or(0, |w| w.shape[0]),
        shared_gate: if gated { SharedGate::Sigmoid } else { SharedGate::None },
        renormalize,
        scaling: case.need(&["routed_scaling_factor"])? as f32,
        balance_loss: 0.0,
        z_loss: 0.0,
        ..MoeConfig::default()
    });
    Ok(with!(ModelConfig { d_model: x.cols(), moe, ..ModelConfig::default() }))
}

pub fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let config = settings(case)?;
    let text = |e: sdmoe::Error| e.to_string();
    let mut builder = ParamBuilder::default();
    let layer = MoeLayer::new(&mut builder, "moe", 0, &config);
    let params = builder.build(gpu).map_err(text)?;
    for param in params.iter() {
        let w = transposed(case.tensor(&format!("w.{}", stored(&param.name)))?);
        param.value.write_f32(&w.to_f32()).map_err(text)?;
    }
    let mut tape = Tape::new(gpu);
    let x = case.tensor("x")?;
    let input = tape.variable(&Tensor::from_f32(gpu, &x.shape, &x.to_f32()).map_err(text)?);
    let pass = Pass::plain(&params, 1, Mode::Train);
    let output = layer.forward(&mut tape, &pass, input).map_err(text)?;

    let index = block_on(output.routed.routing.index.to_u32()).map_err(text)?;
    if index != case.tensor("topk_index")?.to_u32() {
        return Err(format!("chosen experts: {index:?}, expected {:?}", case.tensor("topk_index")?.to_u32()));
    }
    let counts = block_on(output.routed.routing.groups.counts.to_u32()).map_err(text)?;
    if counts != case.tensor("tokens_per_expert")?.to_u32() {
        return Err(format!("tokens of each expert: {counts:?}"));
    }
    let y = block_on(tape.value(output.output).to_f32()).map_err(text)?;
    compare("y", &y, case.tensor("y")?, FORWARD)?;

    let dy = case.tensor("dy")?;
    let dy = Tensor::from_f32(gpu, &dy.shape, &dy.to_f32()).map_err(text)?;
    let gradients = tape.backward(&[(output.output, dy)]).map_err(text)?;
    let dx = gradients.of(input).ok_or("no gradient of x")?;
    compare("dx", &block_on(dx.to_f32()).map_err(text)?, case.tensor("dx")?, BACKWARD)?;
    for param in params.iter() {
        let name = format!("dw.{}", stored(&param.name));
        let got = block_on(param.gradient.as_ref().unwrap().to_f32()).map_err(text)?;
        let want = transposed(case.tensor(&name)?);
        if want.max_abs() == 0.0 {
            // Renormalised over one expert, the weight is 1 whatever the router says; what rounding leaves is no gradient.
            let worst = got.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            if worst > 1e-6 {
                return Err(format!("{name}: expected zeros, got {worst:e}"));
            }
            continue;
        }
        compare(&name, &got, &want, BACKWARD)?;
        zero_where_empty(&name, &counts, &got, &want)?;
    }
    Ok(())
}

/// An expert without tokens has a gradient of exactly zero.
fn zero_where_empty(name: &str, counts: &[u32], got: &[f32], want: &Array) -> Result<(), String> {
    if want.shape.len() != 3 {
        return Ok(());
    }
    let size = got.len() / counts.len();
    let empty = |e: &usize| counts[*e] == 0 && got[e * size..(e + 1) * size].iter().any(|g| *g != 0.0);
    match (0..counts.len()).find(empty) {
        Some(e) => Err(format!("{name}: expert {e} has no token and a gradient")),
        None => Ok(()),
    }
}
