//! Whose names the tensors of a checkpoint have.

use super::target::Target;

/// Which models name their tensors like that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Family {
    /// This program.
    Sdmoe,
    /// Qwen1.5-MoE, Qwen2-MoE.
    Qwen2Moe,
    /// Mixtral.
    Mixtral,
    /// OLMoE.
    Olmoe,
    /// DeepSeek-V2.
    DeepseekV2,
    /// Another one, by its `model_type`; `unknown` where names do not tell and there is no `config.json`.
    Other(String),
}

impl Family {
    /// `sdmoe`, `qwen2_moe`, `mixtral`, `olmoe`, `deepseek_v2`, or the other's.
    pub fn name(&self) -> &str {
        match self {
            Family::Sdmoe => "sdmoe",
            Family::Qwen2Moe => "qwen2_moe",
            Family::Mixtral => "mixtral",
            Family::Olmoe => "olmoe",
            Family::DeepseekV2 => "deepseek_v2",
            Family::Other(name) => name,
        }
    }

    /// By `model_type` where there is one; else by names, as far as these differ between families.
    pub(super) fn of(target: &Target) -> Self {
        let any = |part: &str| target.tensors.keys().any(|name| name.contains(part));
        if any(".moe.experts.") {
            return Family::Sdmoe;
        }
        if let Some(model_type) = &target.config.model_type {
            let known = [Family::Qwen2Moe, Family::Mixtral, Family::Olmoe, Family::DeepseekV2];
            return known.into_iter().find(|f| f.name() == model_type).unwrap_or(Family::Other(model_type.clone()));
        }
        if any(".block_sparse_moe.experts.") {
            Family::Mixtral
        } else if any(".mlp.shared_expert_gate.") {
            Family::Qwen2Moe
        } else if any(".mlp.shared_experts.") && any(".kv_a_proj_with_mqa.") && !any(".e_score_correction_bias") {
            // The bias is DeepSeek-V3's.
            Family::DeepseekV2
        } else if Self::norms_whole_queries(target) {
            Family::Olmoe
        } else {
            Family::Other("unknown".into())
        }
    }

    /// OLMoE normalises all heads' queries together; others (Qwen3) each head's.
    fn norms_whole_queries(target: &Target) -> bool {
        let shape =
            |name: &str| target.tensors.get(name).and_then(|&f| target.files[f].info(name)).map(|i| &i.shape[..]);
        target.tensors.keys().filter_map(|norm| norm.strip_suffix("q_norm.weight")).next().is_some_and(|layer| {
            let (norm, projection) = (shape(&format!("{layer}q_norm.weight")), shape(&format!("{layer}q_proj.weight")));
            matches!((norm, projection), (Some([n]), Some([out, _])) if n == out)
        })
    }
}
