//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

use super::core::{Core, Rotation};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::config::{LatentConfig, ModelConfig};
use crate::nn::experts::residual_init;
use crate::nn::linear::Linear;
use crate::nn::norm::Norm;
use crate::nn::params::{Init, ParamBuilder};
use crate::nn::pass::Pass;
use crate::ops::{Concat, RepeatRows, Reshape, Slice};

/// `c = norm((x W_kva)[.. kv_rank])`; a head's key is `[(c W_kvb)_k, rope((x W_kva)[kv_rank ..])]`, its value `(c W_kvb)_v`,
/// and its query `[q_1, rope(q_2)]` with `q = x W_q` or `norm(x W_qa) W_qb`.
#[derive(Clone, Debug)]
pub struct LatentAttention {
    /// The narrow projection of queries with its norm, where there is one.
    q_a: Option<(Linear, Norm)>,
    q: Linear,
    kv_a: Linear,
    kv_norm: Norm,
    kv_b: Linear,
    o: Linear,
    latent: LatentConfig,
    rotation: Rotation,
    core: Core,
}

impl LatentAttention {
    /// Registers the parameters of layer `layer` under `prefix`.
    pub fn new(
        params: &mut ParamBuilder,
        prefix: &str,
        layer: usize,
        config: &ModelConfig,
        latent: LatentConfig,
    ) -> Self {
        let (d, eps, heads) = (config.d_model, latent.norm_eps, config.heads);
        let q_width = heads * config.head_dim;
        let project = |params: &mut ParamBuilder, name: &str, shape: [usize; 2]| {
            Linear::new(params, format!("{prefix}.{name}"), shape, Init::fan_in(shape[0]))
        };
        let (q_a, q) = match latent.q_rank {
            Some(rank) => {
                let narrow = project(params, "wq_a", [d, rank]);
                let norm = Norm::new(params, format!("{prefix}.q_a_norm.weight"), rank, eps);
                (Some((narrow, norm)), project(params, "wq_b", [rank, q_width]))
            }
            None => (None, project(params, "wq", [d, q_width])),
        };
        let kv_a = project(params, "wkv_a", [d, latent.kv_rank + latent.rope_dim]);
        let kv_norm = Norm::new(params, format!("{prefix}.kv_a_norm.weight"), latent.kv_rank, eps);
        let each = config.head_dim - latent.rope_dim + latent.value_dim;
        let kv_b = project(params, "wkv_b", [latent.kv_rank, heads * each]);
        let inputs = heads * latent.value_dim;
        let init = residual_init(inputs, config.depth_scale());
        let mut o = Linear::new(params, format!("{prefix}.wo"), [inputs, d], init);
        if config.attention.output_bias {
            o = o.with_bias(params, format!("{prefix}.bo"), d);
        }
        let rotation = Rotation::new(params, config);
        Self { q_a, q, kv_a, kv_norm, kv_b, o, latent, rotation, core: Core::new(layer, config) }
    }

    /// `x: [tokens, d_model]`, whole sequences behind each other, to the same shape.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let q = self.queries(tape, pass, x)?;
        let (k, v) = self.keys_and_values(tape, pass, x)?;
        let mixed = self.core.forward(tape, pass, [q, k, v])?;
        let output = self.o.forward(tape, pass, mixed)?;
        tape.release(&[mixed]);
        Ok(output)
    }

    fn queries(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let q = match &self.q_a {
            None => self.q.forward(tape, pass, x)?,
            Some((narrow, norm)) => {
                let plain = narrow.forward(tape, pass, x)?;
                let normed = norm.forward(tape, pass, plain)?;
                let q = self.q.forward(tape, pass, normed)?;
                tape.release(&[plain, normed]);
                q
            }
        };
        let (tokens, heads, rope_dim) = (tape.value(q).rows(), self.core.heads, self.latent.rope_dim);
        let plain_dim = self.core.key_dim - rope_dim;
        let by_head = tape.apply(Reshape::to([tokens * heads, self.core.key_dim]), &[q])?;
        let plain = tape.apply(Slice { start: 0, width: plain_dim }, &[by_head])?;
        let rope = tape.apply(Slice { start: plain_dim, width: rope_dim }, &[by_head])?;
        tape.release(&[q, by_head]);
        let turned = self.rotation.apply(tape, pass, heads, rope)?;
        let both = tape.apply(Concat, &[plain, turned])?;
        tape.release(&[rope, plain, turned]);
        let q = tape.apply(Reshape::to([tokens, heads * self.core.key_dim]), &[both])?;
        tape.release(&[both]);
        Ok(q)
    }

    fn keys_and_values(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<(Var, Var)> {
        let LatentConfig { kv_rank, rope_dim, value_dim, .. } = self.latent;
        let (tokens, heads, key_dim) = (tape.value(x).rows(), self.core.heads, self.core.key_dim);
        let plain_dim = key_dim - rope_dim;
        let narrow = self.kv_a.forward(tape, pass, x)?;
        let common = tape.apply(Slice { start: 0, width: kv_rank }, &[narrow])?;
        let rope = tape.apply(Slice { start: kv_rank, width: rope_dim }, &[narrow])?;
        tape.release(&[narrow]);
        let normed = self.kv_norm.forward(tape, pass, common)?;
        let wide = self.kv_b.forward(tape, pass, normed)?;
        tape.release(&[common, normed]);
        let by_head = tape.apply(Reshape::to([tokens * heads, plain_dim + value_dim]), &[wide])?;
        let plain = tape.apply(Slice { start: 0, width: plain_dim }, &[by_head])?;
        let value = tape.apply(Slice { start: plain_dim, width: value_dim }, &[by_head])?;
        tape.release(&[wide, by_head]);
        let turned = self.rotation.apply(tape, pass, 1, rope)?;
        let repeated = tape.apply(RepeatRows { times: heads }, &[turned])?;
        let both = tape.apply(Concat, &[plain, repeated])?;
        tape.release(&[rope, turned, plain, repeated]);
        let k = tape.apply(Reshape::to([tokens, heads * key_dim]), &[both])?;
        let v = tape.apply(Reshape::to([tokens, heads * value_dim]), &[value])?;
        tape.release(&[both, value]);
        Ok((k, v))
    }
}
