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

/// So small a learning rate that all steps, with and without decoupling, route alike.
fn steady(mut config: RunConfig) -> RunConfig {
    config.optimizer.lr = 1e-9;
    config
}
