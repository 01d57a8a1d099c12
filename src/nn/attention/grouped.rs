//! Attention whose key/value heads serve groups of query heads.

use super::core::{Core, Rotation};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::config::{ModelConfig, QkNorm};
use crate::nn::experts::residual_init;
use crate::nn::linear::Linear;
use crate::nn::norm::Norm;
use crate::nn::params::{Init, ParamBuilder};
use crate::nn::pass::Pass;
use crate::ops::{Clamp, Reshape};

/// `attn(x) = attention(rope(norm(x W_q)), rope(norm(x W_k)), x W_v) W_o`, with norms and biases where the settings have them.
#[derive(Clone, Debug)]
pub struct GroupedAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    qk_norm: QkNorm,
    clip: Option<f32>,
    rotation: Rotation,
    core: Core,
}

impl GroupedAttention {
    /// Registers the parameters of layer `layer` under `prefix`.
    pub fn new(params: &mut ParamBuilder, prefix: &str, layer: usize, config: &ModelConfig) -> Self {
        let (d, settings, width) = (config.d_model, &config.attention, config.head_dim);
        let [q_width, kv_width] = [config.heads * width, config.kv_heads * width];
        let mut project = |name: &str, shape: [usize; 2], init, biased: bool| {
            let linear = Linear::new(params, format!("{prefix}.w{name}"), shape, init);
            if biased { linear.with_bias(params, format!("{prefix}.b{name}"), shape[1]) } else { linear }
        };
        let q = project("q", [d, q_width], Init::fan_in(d), settings.qkv_bias);
        let k = project("k", [d, kv_width], Init::fan_in(d), settings.qkv_bias);
        let v = project("v", [d, kv_width], Init::fan_in(d), settings.qkv_bias);
        let o = residual_init(q_width, config.depth_scale());
        let o = project("o", [q_width, d], o, settings.output_bias);
        let [q_norm, k_norm] = [("q", q_width), ("k", kv_width)].map(|(name, all)| {
            let width = match settings.qk_norm {
                QkNorm::None => return None,
                QkNorm::Head => width,
                QkNorm::Whole => all,
            };
            Some(Norm::new(params, format!("{prefix}.{name}_norm.weight"), width, config.norm_eps))
        });
        let rotation = Rotation::new(params, config);
        let core = Core::new(layer, config);
        Self { q, k, v, o, q_norm, k_norm, qk_norm: settings.qk_norm, clip: settings.clip_qkv, rotation, core }
    }

    /// `x: [tokens, d_model]`, whole sequences behind each other, to the same shape.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let turned = |tape: &mut Tape, linear: &Linear, norm: Option<&Norm>, heads| {
            let projected = linear.forward(tape, pass, x)?;
            let normed = self.normed(tape, pass, norm, projected)?;
            let clipped = self.clipped(tape, normed)?;
            let turned = self.rotation.apply(tape, pass, heads, clipped)?;
            tape.release(&[clipped]);
            Ok(turned)
        };
        let q = turned(tape, &self.q, self.q_norm.as_ref(), self.core.heads)?;
        let k = turned(tape, &self.k, self.k_norm.as_ref(), self.core.kv_heads)?;
        let v = self.v.forward(tape, pass, x)?;
        let v = self.clipped(tape, v)?;
        let mixed = self.core.forward(tape, pass, [q, k, v])?;
        let output = self.o.forward(tape, pass, mixed)?;
        tape.release(&[mixed]);
        Ok(output)
    }

    fn normed(&self, tape: &mut Tape, pass: &Pass<'_>, norm: Option<&Norm>, x: Var) -> Result<Var> {
        let Some(norm) = norm else { return Ok(x) };
        if self.qk_norm == QkNorm::Whole {
            let normed = norm.forward(tape, pass, x)?;
            tape.release(&[x]);
            return Ok(normed);
        }
        let (rows, width) = (tape.value(x).rows(), tape.value(x).cols());
        let head_dim = self.core.key_dim;
        let heads = tape.apply(Reshape::to([rows * width / head_dim, head_dim]), &[x])?;
        let normed = norm.forward(tape, pass, heads)?;
        let whole = tape.apply(Reshape::to([rows, width]), &[normed])?;
        tape.release(&[x, heads, normed]);
        Ok(whole)
    }

    fn clipped(&self, tape: &mut Tape, x: Var) -> Result<Var> {
        let Some(limit) = self.clip else { return Ok(x) };
        let clipped = tape.apply(Clamp { limit }, &[x])?;
        tape.release(&[x]);
        Ok(clipped)
    }
}
