//! The training steps that are measured.

use crate::nn::config::{ModelConfig, MoeConfig, Preset};
use crate::train::config::RunConfig;

/// The `small` preset: 2048 tokens a step.
pub fn d256() -> RunConfig {
    steady(RunConfig::preset(Preset::Small))
}

/// Two layers of d = 1024, f = 704, 8 experts top-2, with the same attention widths and no shared expert; 2048 tokens
/// in each of `accumulate` batches a step.
pub fn d1024(accumulate: u64) -> RunConfig {
    let moe = MoeConfig { experts: 8, top_k: 2, d_expert: 704, d_shared: 0, ..MoeConfig::default() };
    let mut config = RunConfig::preset(Preset::Small);
    config.model =
        ModelConfig { d_model: 1024, layers: 2, heads: 16, kv_heads: 8, head_dim: 64, moe, ..Preset::Small.model() };
    config.train.accumulate = accumulate;
    steady(config)
}

/// A dense model that others publish steps of, with the shape of SmolLM-135M: d = 576, 30 layers, f = 1536, 134.5M parameters; one
/// sequence of 128 tokens.
pub fn dense135m() -> RunConfig {
    let mut config = RunConfig::preset(Preset::Small);
    let layers = 30;
    config.model = ModelConfig {
        vocab: 49_152,
        d_model: 576,
        layers,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        dense_layers: (0..layers).collect(),
        d_dense: 1536,
        ..Preset::Small.model()
    };
    (config.train.batch, config.train.seq) = (1, 128);
    steady(config)
}

/// So small a learning rate that all steps, with and without decoupling, route alike.
fn steady(mut config: RunConfig) -> RunConfig {
    config.optimizer.lr = 1e-9;
    config
}
