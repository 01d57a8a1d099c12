//! RoPE's settings: flat as published, or in `rope_parameters` as transformers 5 writes them.

use super::fields::Fields;
use crate::error::Result;
use crate::nn::config::YarnConfig;

/// RoPE's base and YaRN, where it is used; see also [`without_score_factor`].
pub(super) fn rope(fields: &mut Fields, default_theta: f64) -> Result<(f32, Option<YarnConfig>)> {
    fields.only("partial_rotary_factor", 1.0)?;
    let flat = fields.number("rope_theta")?;
    let mut theta = flat.map(|theta| (theta, "rope_theta"));
    let mut yarn: Option<YarnConfig> = None;
    let (mut first, mut count) = ("", 0);
    for (name, within) in [("rope_parameters", "rope_parameters."), ("rope_scaling", "rope_scaling.")] {
        let Some(value) = fields.take(name) else { continue };
        let mut inner = Fields::of(within, name, value)?;
        if let Some(own) = inner.number("rope_theta")? {
            match theta {
                Some((known, other)) if known != own => {
                    return Err(inner.bad("rope_theta", format!("expected the value of {other}, {known}, got {own}")));
                }
                _ => theta = Some((own, "rope_parameters.rope_theta")),
            }
        }
        let kind = inner.agreed(&["rope_type", "type"], Fields::text)?.unwrap_or_else(|| "default".into());
        let own = match kind.as_str() {
            "default" => None,
            "yarn" => Some(yarn_of(&mut inner, fields.context)?),
            other => {
                return Err(inner.bad("rope_type", format!("only `default` and `yarn` are supported, got `{other}`")));
            }
        };
        if count > 0 && own != yarn {
            return Err(fields.bad(name, format!("expected what {first} says, got something else")));
        }
        (first, count, yarn) = (name, count + 1, own);
        all_known(inner)?;
    }
    let theta = theta.map_or(default_theta, |(theta, _)| theta);
    if !(1.0..=1e12).contains(&theta) {
        return Err(fields.bad("rope_theta", format!("expected a number of at least 1 and at most 1e12, got {theta}")));
    }
    Ok((theta as f32, yarn))
}

/// Refuses what is left: every setting of RoPE changes what is computed.
fn all_known(inner: Fields) -> Result<()> {
    match inner.first_left() {
        Some(name) => {
            Err(inner.bad(name, "expected no such field: it is not known, and changes what the model computes"))
        }
        None => Ok(()),
    }
}

/// `0.1 m ln(factor) + 1`: YaRN's temperature, as transformers and DeepSeek have it.
fn mscale(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

fn yarn_of(inner: &mut Fields, context: usize) -> Result<YarnConfig> {
    inner.only("truncate", true)?;
    inner.only("finetuned", true)?;
    let original = inner.optional("original_max_position_embeddings", 1 << 30)?.unwrap_or(context);
    let factor = inner.number("factor")?.unwrap_or(context as f64 / original as f64);
    let (m, all) = (inner.number("mscale")?.unwrap_or(0.0), inner.number("mscale_all_dim")?.unwrap_or(0.0));
    let rotary = match inner.number("attention_factor")? {
        Some(given) => given,
        None if m != 0.0 && all != 0.0 => mscale(factor, m) / mscale(factor, all),
        None => mscale(factor, 1.0),
    };
    // DeepSeek's attention takes it squared; the others have no `mscale_all_dim`.
    let score = if all == 0.0 { 1.0 } else { mscale(factor, all).powi(2) };
    let (fast, slow) = (inner.number("beta_fast")?.unwrap_or(32.0), inner.number("beta_slow")?.unwrap_or(1.0));
    for (name, value, least) in [("factor", factor, 1.0), ("beta_fast", fast, slow), ("beta_slow", slow, 0.0)] {
        if !(value >= least && value > 0.0) {
            return Err(inner.bad(name, format!("expected a number above 0 and of at least {least}, got {value}")));
        }
    }
    if !(rotary > 0.0 && score > 0.0) {
        return Err(inner.bad("attention_factor", format!("expected a number above 0, got {rotary}")));
    }
    Ok(YarnConfig {
        factor: factor as f32,
        original_context: original,
        beta_fast: fast as f32,
        beta_slow: slow as f32,
        rotary_factor: rotary as f32,
        score_factor: score as f32,
    })
}

/// YaRN of a family whose attention has no factor on the scores beside the one in cosines and sines.
pub(super) fn without_score_factor(yarn: &mut Option<YarnConfig>) {
    if let Some(yarn) = yarn {
        yarn.score_factor = 1.0;
    }
}
