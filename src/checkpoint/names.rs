//! The kind of a tensor, told by its name alone.
//!
//! `N` is a layer, `I` an expert, both plain decimal numbers. What stands before `layers.` (`model.`,
//! `model.language_model.`, `mtp.`, nothing) is the name of a stack of layers: those of different stacks are different
//! layers, whatever their numbers.
//!
//! | tensors | shape | of |
//! |---|---|---|
//! | `layers.N.mlp.experts.I.{gate,up,down}_proj.weight` | `[out, in]` | Qwen2-MoE, OLMoE, DeepSeek-V2 and others |
//! | `layers.N.block_sparse_moe.experts.I.{w1,w3,w2}.weight`: gate, up, down | `[out, in]` | Mixtral |
//! | `layers.N.mlp.experts.gate_up_proj` | `[E, 2f, d]`, gate's rows first | all four in transformers 5 |
//! | `layers.N.mlp.experts.down_proj` | `[E, d, f]` | the same |
//! | `layers.N.mlp.gate.weight`, `layers.N.block_sparse_moe.gate.weight`: the router | `[E, d]` | all of these |
//! | `layers.N.moe.experts.{gate,up,down}` | `[E, in, out]` | this program's `model.safetensors` |
//! | `layers.N.moe.router` | `[d, E]` | the same |
//! | `spectral.{gate,up,down}.N.{w_c,u,v}` | `[in, out]`, `[in, k]`, `[out, k]` | this program's `optimizer.safetensors` |
//!
//! Sources: the modules `modeling_{qwen2_moe,mixtral,olmoe,deepseek_v2}.py` of Hugging Face transformers 4.57 for tensors
//! of one expert, 5.x for fused ones; `nn::moe` and `optim::spectral` for our own.

use crate::nn::config::ExpertMatrix;

/// A part of decoupled experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpectralPart {
    Common,
    U,
    V,
}

/// The meaning of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// One expert's matrix, `[out, in]`.
    Expert { layer: usize, matrix: ExpertMatrix, expert: usize },
    /// Gate and up of all experts, `[E, 2f, d]`.
    FusedGateUp { layer: usize },
    /// Down of all experts, `[E, d, f]`.
    FusedDown { layer: usize },
    /// All experts of this program, `[E, in, out]`.
    Stack { layer: usize, matrix: ExpertMatrix },
    /// `[E, d]`, or `[d, E]` if `own`.
    Router { layer: usize, own: bool },
    /// A part that decoupling adds.
    Spectral { layer: usize, matrix: ExpertMatrix, part: SpectralPart },
    /// Attention, norms, embeddings, dense layers, shared experts, the optimizer's moments.
    Other,
    /// None of these.
    Unknown,
}

/// A number as a program writes it: another spelling of it would name the same expert twice.
fn number(text: &str) -> Option<usize> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn own_matrix(name: &str) -> Option<ExpertMatrix> {
    ExpertMatrix::ALL.into_iter().find(|m| m.name() == name)
}

fn projection(name: &str) -> Option<ExpertMatrix> {
    own_matrix(name.strip_suffix("_proj")?)
}

fn mixtral_matrix(name: &str) -> Option<ExpertMatrix> {
    match name {
        "w1" => Some(ExpertMatrix::Gate),
        "w3" => Some(ExpertMatrix::Up),
        "w2" => Some(ExpertMatrix::Down),
        _ => None,
    }
}

/// Returns the meaning of the tensor `name`.
pub(super) fn role(name: &str) -> Role {
    let parts: Vec<&str> = name.split('.').collect();
    match &parts[..] {
        ["spectral", matrix, layer, rest @ ..] => spectral(matrix, layer, rest),
        ["spectral", "common_since"] | ["adam" | "muon", ..] => Role::Other,
        _ => match parts.iter().position(|p| *p == "layers") {
            Some(at) if at + 1 < parts.len() => {
                number(parts[at + 1]).map_or(Role::Unknown, |layer| of_layer(layer, &parts[at + 2..]))
            }
            _ => outside(&parts),
        },
    }
}

/// Letters of a name that a sentence shows.
const SHOWN: usize = 200;

/// A name, which may be whatever a file says, as a part of one line.
pub(super) fn shown(name: &str) -> String {
    let mut letters = name.chars();
    let part = letters.by_ref().take(SHOWN);
    let mut text: String =
        part.flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if letters.next().is_some() {
        text.push('\u{2026}');
    }
    text
}

/// ` and 2 others`, or nothing.
pub(crate) fn others(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " and 1 other".into(),
        n => format!(" and {n} others"),
    }
}

/// The stack of layers that the tensor `name` is in: what stands before `layers`, without the full stop.
pub(super) fn stack(name: &str) -> &str {
    let mut start = 0;
    for part in name.split('.') {
        if part == "layers" {
            return name[..start].strip_suffix('.').unwrap_or_default();
        }
        start += part.len() + 1;
    }
    ""
}

/// Whether a stack of that name stands beside a model's own layers: a copy with averaged weights, or the layers that predict
/// tokens after the next.
pub(super) fn beside_model(stack: &str) -> bool {
    stack.split(|c: char| !c.is_alphanumeric()).any(|word| ["ema", "mtp"].contains(&word))
}

/// Whether a tensor that is not understood seems to belong to experts: by its name, or as a stack of matrices in a layer
/// with such a name. Shared experts are experts of no router.
pub(super) fn looks_like_expert(name: &str, shape: &[usize]) -> bool {
    let lower = name.to_ascii_lowercase();
    if lower.split('.').any(|part| part.contains("shared")) {
        return false;
    }
    let named = |word: &str| lower.split('.').any(|part| part.contains(word));
    let stacked = shape.len() == 3 && shape[0] > 1;
    named("expert") || named("_exps") || stacked && ["moe", "mlp", "ffn", "feed_forward"].into_iter().any(named)
}

fn spectral(matrix: &str, layer: &str, rest: &[&str]) -> Role {
    let (Some(matrix), Some(layer)) = (own_matrix(matrix), number(layer)) else { return Role::Unknown };
    let part = match rest {
        ["w_c"] => SpectralPart::Common,
        ["u"] => SpectralPart::U,
        ["v"] => SpectralPart::V,
        ["w_c" | "w_u", "m" | "v" | "momentum"] | ["refresh", ..] => return Role::Other,
        _ => return Role::Unknown,
    };
    Role::Spectral { layer, matrix, part }
}

fn of_layer(layer: usize, rest: &[&str]) -> Role {
    let expert = |expert: &str, matrix: Option<ExpertMatrix>| match (number(expert), matrix) {
        (Some(expert), Some(matrix)) => Role::Expert { layer, matrix, expert },
        _ => Role::Unknown,
    };
    match rest {
        ["mlp", "experts", i, name, "weight"] => expert(i, projection(name)),
        ["block_sparse_moe", "experts", i, name, "weight"] => expert(i, mixtral_matrix(name)),
        ["mlp", "experts", "gate_up_proj"] => Role::FusedGateUp { layer },
        ["mlp", "experts", "down_proj"] => Role::FusedDown { layer },
        ["mlp" | "block_sparse_moe", "gate", "weight"] => Role::Router { layer, own: false },
        ["moe", "experts", name] => own_matrix(name).map_or(Role::Unknown, |matrix| Role::Stack { layer, matrix }),
        ["moe", "router"] => Role::Router { layer, own: true },
        ["moe", "shared", name] if own_matrix(name).is_some() => Role::Other,
        ["moe", "shared_gate" | "balance_bias"] | ["attn", _] | ["attn", _, "weight"] => Role::Other,
        ["ffn", name] if own_matrix(name).is_some() => Role::Other,
        ["mlp", name, "weight"] | ["mlp", "shared_expert" | "shared_experts", name, "weight"]
            if projection(name).is_some() =>
        {
            Role::Other
        }
        ["mlp", "shared_expert_gate", "weight"] | ["mlp", "gate", "e_score_correction_bias"] => Role::Other,
        ["self_attn", _, ..] => Role::Other,
        ["input_layernorm" | "post_attention_layernorm" | "attn_norm" | "moe_norm" | "ffn_norm", "weight"] => {
            Role::Other
        }
        _ => Role::Unknown,
    }
}

fn outside(parts: &[&str]) -> Role {
    match parts {
        ["embed" | "final_norm" | "head", "weight"] => Role::Other,
        [.., "embed_tokens" | "norm" | "lm_head", "weight"] => Role::Other,
        _ => Role::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExpertMatrix::{Down, Gate, Up};

    #[test]
    fn names_are_understood() {
        for (name, wanted) in [
            ("model.layers.12.mlp.experts.59.gate_proj.weight", Role::Expert { layer: 12, matrix: Gate, expert: 59 }),
            (
                "model.language_model.layers.0.mlp.experts.0.up_proj.weight",
                Role::Expert { layer: 0, matrix: Up, expert: 0 },
            ),
            ("layers.3.block_sparse_moe.experts.7.w1.weight", Role::Expert { layer: 3, matrix: Gate, expert: 7 }),
            ("model.layers.3.block_sparse_moe.experts.7.w2.weight", Role::Expert { layer: 3, matrix: Down, expert: 7 }),
            ("model.layers.3.block_sparse_moe.experts.7.w3.weight", Role::Expert { layer: 3, matrix: Up, expert: 7 }),
            ("model.layers.1.mlp.experts.gate_up_proj", Role::FusedGateUp { layer: 1 }),
            ("model.layers.1.mlp.experts.down_proj", Role::FusedDown { layer: 1 }),
            ("model.layers.1.mlp.gate.weight", Role::Router { layer: 1, own: false }),
            ("layers.1.moe.router", Role::Router { layer: 1, own: true }),
            ("layers.0.moe.experts.down", Role::Stack { layer: 0, matrix: Down }),
            ("spectral.up.2.w_c", Role::Spectral { layer: 2, matrix: Up, part: SpectralPart::Common }),
            ("spectral.up.2.v", Role::Spectral { layer: 2, matrix: Up, part: SpectralPart::V }),
            ("spectral.up.2.w_u.v", Role::Other),
            ("adam.layers.0.moe.experts.down.m", Role::Other),
            ("model.layers.0.mlp.gate_proj.weight", Role::Other),
            ("model.layers.0.mlp.shared_experts.up_proj.weight", Role::Other),
            ("model.layers.0.self_attn.kv_b_proj.weight", Role::Other),
            ("model.embed_tokens.weight", Role::Other),
            ("lm_head.weight", Role::Other),
        ] {
            assert_eq!(role(name), wanted, "{name}");
        }
    }

    #[test]
    fn names_are_shown_on_one_line_of_bounded_length() {
        assert_eq!(shown("a\u{e9}.b"), "a\u{e9}.b");
        assert_eq!(shown("a\n\u{1b}[2J"), "a\\n\\u{1b}[2J");
        assert_eq!(shown(&"x".repeat(9000)).chars().count(), 201);
    }

    #[test]
    fn stacks_are_told_by_what_stands_before_their_layers() {
        for (name, wanted) in [
            ("model.language_model.layers.0.mlp.gate.weight", "model.language_model"),
            ("layers.0.moe.router", ""),
            ("mtp.layers.0.mlp.layers.1.x", "mtp"),
            (".layers.0", ""),
            ("model.players.0", ""),
            ("", ""),
            ("\u{e9}.layers.0", "\u{e9}"),
        ] {
            assert_eq!(stack(name), wanted, "{name}");
        }
        assert!(
            ["mtp", "model_ema.model", "ema", "model.mtp_block", "model (mtp, from layer 61)"]
                .into_iter()
                .all(beside_model)
        );
        assert!(!["", "model", "schema", "encoder"].into_iter().any(beside_model));
    }

    #[test]
    fn unread_names_that_look_like_experts_are_told_from_the_rest() {
        for name in [
            "model.layers.1.feed_forward.experts.0.gate_proj.weight",
            "encoder.block.1.layer.1.mlp.experts.expert_0.wi.weight",
            "model.layers.0.mlp.experts.0.gate_proj.qweight",
            "blk.0.ffn_gate_exps.weight",
            "model.layers.0.ffn.Expert_3.fc1.weight",
        ] {
            assert!(looks_like_expert(name, &[4, 4]), "{name}");
        }
        assert!(looks_like_expert("model.layers.0.block_sparse_moe.input_linear.weight", &[8, 6, 4]));
        for name in ["model.layers.0.mlp.shared_expert.w1.weight", "model.layers.0.moe.norm", "vision.patch", ""] {
            assert!(!looks_like_expert(name, &[4, 4]), "{name}");
        }
        assert!(!looks_like_expert("model.layers.0.mixer.conv1d.weight", &[64, 1, 4]));
    }

    #[test]
    fn what_only_looks_like_an_expert_is_unknown() {
        for name in [
            "",
            "layers",
            "model.layers",
            "model.layers.x.mlp.gate.weight",
            "model.layers.-1.mlp.gate.weight",
            "model.layers.0.mlp.experts.01.gate_proj.weight",
            "model.layers.0.mlp.experts.+1.gate_proj.weight",
            "model.layers.0.mlp.experts..gate_proj.weight",
            "model.layers.0.mlp.experts.99999999999999999999999.gate_proj.weight",
            "model.layers.0.mlp.experts.1.gate_proj.qweight",
            "model.layers.0.mlp.experts.1.gate_proj.bias",
            "model.layers.0.mlp.experts.1.w1.weight",
            "model.layers.0.mlp.experts.gate_up_proj_blocks",
            "model.layers.0.block_sparse_moe.experts.1.gate_proj.weight",
            "layers.0.moe.experts.side",
            "spectral.gate.0.w_x",
            "spectral.gate.x.w_c",
        ] {
            assert_eq!(role(name), Role::Unknown, "{name}");
        }
    }
}
