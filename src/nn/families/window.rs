//! Sliding windows: which layers see only the tokens before within a window.

use super::fields::Fields;
use crate::error::Result;
use crate::nn::config::ModelConfig;

/// The widest window, tokens.
const MAX_WINDOW: usize = u32::MAX as usize;

/// The layers that have the window where `use_sliding_window` is set and no `layer_types` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Windowed {
    /// All (Qwen3-MoE).
    All,
    /// Those from `max_window_layers` on (Qwen2, Qwen3).
    From,
    /// Every other one below `max_window_layers`, the first included (Qwen2-MoE in transformers 5).
    OddBefore,
}

/// The windows of the Qwen families: `use_sliding_window`, `sliding_window`, `max_window_layers`, `layer_types`.
pub(super) fn qwen(fields: &mut Fields, config: &mut ModelConfig, rule: Windowed) -> Result<()> {
    let layers = config.layers;
    let used = fields.flag("use_sliding_window", false)?;
    let window = fields.count("sliding_window")?.unwrap_or(0);
    let bound = fields.count("max_window_layers")?.unwrap_or(28);
    let types = fields.texts("layer_types")?;
    if let Some(types) = &types {
        if types.len() != layers {
            let message = format!("expected num_hidden_layers = {layers} of them, got {}", types.len());
            return Err(fields.bad("layer_types", message));
        }
        if let Some(other) = types.iter().find(|t| !["full_attention", "sliding_attention"].contains(&t.as_str())) {
            let message = format!("only `full_attention` and `sliding_attention` are supported, got `{other}`");
            return Err(fields.bad("layer_types", message));
        }
    }
    let slides = |l: usize| match &types {
        Some(types) => types[l] == "sliding_attention",
        None => match rule {
            Windowed::All => used,
            Windowed::From => used && l >= bound,
            Windowed::OddBefore => used && l.is_multiple_of(2) && l < bound,
        },
    };
    let full: Vec<usize> = (0..layers).filter(|l| !slides(*l)).collect();
    if full.len() == layers {
        return Ok(());
    }
    if !used {
        let message = "expected no `sliding_attention`, because use_sliding_window is false, got one";
        return Err(fields.bad("layer_types", message));
    }
    set(fields, config, window, full)
}

/// A window in all layers where `sliding_window` names one (Mixtral).
pub(super) fn everywhere(fields: &mut Fields, config: &mut ModelConfig) -> Result<()> {
    match fields.count("sliding_window")? {
        Some(window) => set(fields, config, window, Vec::new()),
        None => Ok(()),
    }
}

fn set(fields: &Fields, config: &mut ModelConfig, window: usize, full: Vec<usize>) -> Result<()> {
    if !(1..=MAX_WINDOW).contains(&window) {
        let message = format!("expected a whole number from 1 to {MAX_WINDOW}, because layers have one, got {window}");
        return Err(fields.bad("sliding_window", message));
    }
    config.attention.window = Some(window);
    config.attention.full_layers = full;
    Ok(())
}
