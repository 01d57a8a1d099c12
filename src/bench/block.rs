//! The Mixture-of-Experts block as a layer of a model runs it: router, routing, permutation, SwiGLU experts,
//! combination; forward and backward with all gradients.

use super::case::{Case, Record};
use super::ceiling::{product_flop, random};
use crate::autograd::{Array, Tape};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::config::{ModelConfig, MoeConfig, Preset};
use crate::nn::moe::MoeLayer;
use crate::nn::params::{Group, ParamBuilder};
use crate::nn::pass::{Mode, Pass};
use crate::tensor::{DType, Tensor};

/// Width of the experts' products, d = f.
pub(super) const WIDTH: usize = 512;
const TOKENS: usize = 2048;
const EXPERTS: usize = 8;
const TOP_K: usize = 2;

/// `experts.block.even`; its operations are those of its products.
pub(super) fn case() -> Case {
    // Forward, input gradient and weight gradient of three matrices, and of the router.
    let flop = 9.0 * product_flop(TOKENS * TOP_K, WIDTH, WIDTH) + 3.0 * product_flop(TOKENS, WIDTH, EXPERTS);
    Case::new("experts.block.even", make).flop(flop)
}

fn make(gpu: &Gpu) -> Result<Record> {
    let moe = MoeConfig { experts: EXPERTS, top_k: TOP_K, d_expert: WIDTH, d_shared: 0, ..MoeConfig::default() };
    let config = ModelConfig { d_model: WIDTH, moe, ..Preset::Base.model() };
    let mut builder = ParamBuilder::default();
    let layer = MoeLayer::new(&mut builder, "moe", 0, &config);
    let params = builder.build(gpu)?;
    for param in params.iter().filter(|p| p.group != Group::Decay) {
        crate::linalg::random::fill_normal(&param.value, 2, 0, 1.0 / (WIDTH as f32).sqrt())?;
    }
    // Routed evenly: the router shows expert e the column e of x, and of the first columns of token t those of its two
    // experts stand out.
    let router: Vec<f32> = (0..WIDTH * EXPERTS).map(|i| f32::from(u8::from(i / EXPERTS == i % EXPERTS))).collect();
    for param in params.iter().filter(|p| p.group == Group::Decay) {
        param.value.write_f32(&router)?;
    }
    let mut input = Array::random(&[TOKENS, WIDTH], 3).to_f32();
    for (t, row) in input.chunks_mut(WIDTH).enumerate() {
        row[..EXPERTS].fill(0.0);
        row[t % EXPERTS] = 2.0;
        row[(t + 1) % EXPERTS] = 1.0;
    }
    let x = Tensor::persistent(gpu, [TOKENS, WIDTH], DType::F32)?;
    x.write_f32(&input)?;
    let dy = random(gpu, &[TOKENS, WIDTH])?;
    let one = Tensor::persistent(gpu, [1], DType::F32)?;
    one.write_f32(&[1.0])?;
    let gpu = gpu.clone();
    Ok(Box::new(move || {
        let pass = Pass::plain(&params, TOKENS, Mode::Train);
        let mut tape = Tape::new(&gpu);
        let input = tape.variable(&x);
        let output = layer.forward(&mut tape, &pass, input)?;
        let losses = output.routed.losses.iter().map(|&loss| (loss, one.clone()));
        let seeds: Vec<_> = losses.chain([(output.output, dy.clone())]).collect();
        tape.backward(&seeds).map(drop)
    }))
}
