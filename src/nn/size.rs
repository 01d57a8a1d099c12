//! The demands of the settings on a device, worked out before anything is allocated: the largest buffers, each with the setting
//! that makes it so large.
//!
//! Lower bounds: paddings and temporaries are left out. What passes here can still fail on the device.

use crate::error::{Error, Result};
use crate::nn::config::ModelConfig;

/// A size that a buffer grows with: the setting's name, its value, and a value that is large but usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Factor {
    setting: &'static str,
    value: u64,
    usual: u64,
}

impl Factor {
    /// A factor whose value is unremarkable up to `usual`.
    pub(crate) fn new(setting: &'static str, value: usize, usual: u64) -> Self {
        Self { setting, value: value as u64, usual }
    }
}

/// A buffer that the settings ask for.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    what: &'static str,
    factors: Vec<Factor>,
    /// Bytes that each element of the factors' product takes.
    unit: u64,
}

impl Need {
    pub(crate) fn new(what: &'static str, unit: u64, factors: &[Factor]) -> Self {
        Self { what, factors: factors.to_vec(), unit }
    }

    /// Bytes.
    pub(crate) fn bytes(&self) -> u128 {
        self.factors.iter().fold(u128::from(self.unit), |product, f| product * u128::from(f.value))
    }

    /// Returns the same elements with `bytes` bytes for each `of` of now.
    pub(crate) fn times(&self, bytes: u64, of: u64) -> Self {
        Self { unit: self.unit / of * bytes, ..self.clone() }
    }

    /// The setting that is furthest beyond what is usual.
    pub(crate) fn setting(&self) -> &'static str {
        let excess = |f: &Factor| f.value as f64 / f.usual as f64;
        let most = self.factors.iter().max_by(|a, b| excess(a).total_cmp(&excess(b)));
        most.map_or("model", |f| f.setting)
    }

    /// `4 GiB for the logits (train.batch = 8 x train.seq = 128 x model.vocab = 256, 4 bytes each)`.
    pub(crate) fn words(&self) -> String {
        let factors: Vec<String> = self.factors.iter().map(|f| format!("{} = {}", f.setting, f.value)).collect();
        format!("{} for {} ({}, {} bytes each)", mib(self.bytes()), self.what, factors.join(" x "), self.unit)
    }

    /// Fails where the buffer is larger than `largest` bytes.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting that is to blame.
    pub(crate) fn fits(&self, largest: u64) -> Result<()> {
        if self.bytes() <= u128::from(largest) {
            return Ok(());
        }
        let message = format!(
            "asks for a buffer of at least {}; the adapter's largest has {}",
            self.words(),
            mib(u128::from(largest))
        );
        Err(Error::config(self.setting(), message))
    }
}

/// `bytes` for a person.
pub(crate) fn mib(bytes: u128) -> String {
    match bytes >> 20 {
        0 => format!("{bytes} bytes"),
        mib if mib < 10_000 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}

/// The parameters by kind, in f32: what the optimizer's state and the gradients are multiples of.
pub(crate) fn parameters(c: &ModelConfig) -> Vec<Need> {
    let d = Factor::new("model.d_model", c.d_model, 8192);
    let layers = Factor::new("model.layers", c.layers, 64);
    let vocab = Factor::new("model.vocab", c.vocab, 131_072);
    let experts = Factor::new("model.moe.experts", c.moe.experts, 256);
    let head_dim = Factor::new("model.head_dim", c.head_dim, 128);
    let heads = |name, count| Factor::new(name, count, 64);
    let hidden = |name, width| Factor::new(name, width, 8192);
    let (q, kv) = (heads("model.heads", c.heads), heads("model.kv_heads", c.kv_heads));
    let mut needs = vec![Need::new("the embedding", if c.tied_head { 4 } else { 8 }, &[vocab, d])];
    if let Some(latent) = &c.attention.latent {
        let value = Factor::new("model.attention.latent.value_dim", latent.value_dim, 128);
        let rank = Factor::new("model.attention.latent.kv_rank", latent.kv_rank, 1024);
        needs.push(Need::new("the outputs of attention", 4, &[layers, d, q, value]));
        needs.push(Need::new("the values of attention", 4, &[layers, rank, q, value]));
    } else {
        needs.push(Need::new("the queries and outputs of attention", 8, &[layers, d, q, head_dim]));
        needs.push(Need::new("the keys and values of attention", 8, &[layers, d, kv, head_dim]));
    }
    if !c.dense_layers.is_empty() {
        let dense = Factor::new("the layers of model.dense_layers", c.dense_layers.len(), 64);
        needs.push(Need::new("the dense layers", 12, &[dense, d, hidden("model.d_dense", c.d_dense)]));
    }
    let with_experts = c.layers.saturating_sub(c.dense_layers.len());
    let name = if c.dense_layers.is_empty() { "model.layers" } else { "model.layers less model.dense_layers" };
    let layers = Factor::new(name, with_experts, 64);
    needs.push(Need::new("the routers", 4, &[layers, d, experts]));
    if c.moe.d_shared > 0 {
        let shared = hidden("model.moe.d_shared", c.moe.d_shared);
        needs.push(Need::new("the shared experts", 12, &[layers, d, shared]));
    }
    let f = hidden("model.moe.d_expert", c.moe.d_expert);
    needs.extend(
        ["the experts' gate matrices", "the experts' up matrices", "the experts' down matrices"]
            .map(|what| Need::new(what, 4, &[layers, experts, d, f])),
    );
    needs
}

/// Checks that a buffer of `largest` bytes holds each kind of parameters.
///
/// # Errors
/// [`Error::Config`] names the setting that is to blame.
pub(crate) fn fits(config: &ModelConfig, largest: u64) -> Result<()> {
    let needs = parameters(config);
    needs.iter().try_for_each(|need| need.fits(largest))?;
    // All but the experts' lie in one buffer.
    let together: Vec<&Need> = needs.iter().filter(|n| !n.what.contains("matrices")).collect();
    let sum: u128 = together.iter().map(|n| n.bytes()).sum();
    match together.iter().max_by_key(|n| n.bytes()) {
        Some(most) if sum > u128::from(largest) => {
            let message = format!(
                "asks, with the other matrices beside the experts, for a buffer of at least {}, of which {}; the adapter's \
                 largest has {}",
                mib(sum),
                most.words(),
                mib(u128::from(largest))
            );
            Err(Error::config(most.setting(), message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::config::Preset;

    fn refused(change: impl FnOnce(&mut ModelConfig)) -> String {
        let mut config = Preset::Base.model();
        fits(&config, 2 << 30).unwrap();
        change(&mut config);
        config.validate().unwrap();
        fits(&config, 2 << 30).unwrap_err().to_string()
    }

    #[test]
    fn what_is_too_large_is_told_by_the_setting_that_makes_it_so() {
        let shown = refused(|c| c.moe.d_expert = 1 << 17);
        let expected = "config: model.moe.d_expert: asks for a buffer of at least 32 GiB for the experts' gate matrices (model.layers = 8 x \
                        model.moe.experts = 16 x model.d_model = 512 x model.moe.d_expert = 131072, 4 bytes each); the \
                        adapter's largest has 2048 MiB";
        assert_eq!(shown, expected);
        assert!(refused(|c| c.moe.d_shared = 1 << 17).starts_with("config: model.moe.d_shared: "));
        assert!(refused(|c| c.layers = 4096).starts_with("config: model.layers: "));
        assert!(refused(|c| c.d_model = 1 << 16).starts_with("config: model.d_model: "));
        assert!(refused(|c| c.vocab = 1 << 20).starts_with("config: model.vocab: "));
        assert!(refused(|c| c.heads = 4096).starts_with("config: model.heads: "));
        assert!(refused(|c| c.moe.experts = 1024).starts_with("config: model.moe.experts: "));
        // No one of them alone.
        let shown = refused(|c| (c.vocab, c.tied_head, c.heads) = (1 << 19, false, 1024));
        assert!(shown.contains("with the other matrices beside the experts"), "{shown}");
    }

    #[test]
    fn the_largest_settings_do_not_overflow() {
        let mut c = Preset::Base.model();
        (c.vocab, c.d_model, c.layers, c.heads, c.head_dim) = (1 << 20, 1 << 16, 1 << 12, 1 << 12, 128);
        (c.moe.experts, c.moe.top_k, c.moe.d_expert, c.moe.d_shared) = (1024, 64, 1 << 17, 1 << 17);
        c.validate().unwrap();
        let elements: u128 = parameters(&c).iter().map(|n| n.bytes() / 4).sum();
        // Four f32 each: weight, gradient, two moments.
        assert!(elements * 16 < 1 << 62, "{elements}");
        assert!(fits(&c, 1 << 40).is_err());
    }
}
