//! The demands of a run on a device beyond the parameters ([`crate::nn::size`]), worked out before anything is written.

use std::fs;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::grouped::tile_rows;
use crate::nn::config::{ExpertMatrix, Precision};
#[cfg(any(test, feature = "files"))]
use crate::nn::memory::{MemoryPlan, WeightType};
use crate::nn::size::{Factor, Need, fits, mib, parameters};
use crate::optim::Rule;
use crate::train::config::RunConfig;

/// Checks that `gpu` can hold a run's buffers, each by itself, and where its memory is the machine's, also the least that
/// they take together.
///
/// # Errors
/// [`Error::Config`] names the setting that is to blame.
pub(crate) fn check(gpu: &Gpu, config: &RunConfig) -> Result<()> {
    let largest = gpu.device().limits().max_buffer_size;
    fits(&config.model, largest)?;
    check_activations(gpu, config)?;
    memory_of(gpu).map_or(Ok(()), |memory| fits_together(config, memory))
}

/// Bytes of memory of a device that has the machine's; none of a GPU: how much it has left nobody says before it fails.
pub(crate) fn memory_of(gpu: &Gpu) -> Option<u64> {
    if gpu.adapter().is_software() { host_memory() } else { None }
}

/// Checks the largest buffers of a forward pass over `train.batch` sequences of `train.seq` tokens.
///
/// # Errors
/// [`Error::Config`] names the setting that is to blame.
pub(crate) fn check_activations(gpu: &Gpu, config: &RunConfig) -> Result<()> {
    let largest = gpu.device().limits().max_buffer_size;
    activations(config, tile_rows(gpu)).iter().try_for_each(|need| need.fits(largest))
}

/// The large buffers of a forward pass; backward has gradients of the same sizes.
fn activations(config: &RunConfig, tile_rows: usize) -> Vec<Need> {
    let (c, train) = (&config.model, &config.train);
    let unit = bytes(train.precision);
    let (batch, seq) = (Factor::new("train.batch", train.batch, 64), Factor::new("train.seq", train.seq, 8192));
    let d = Factor::new("model.d_model", c.d_model, 8192);
    let k = Factor::new("model.moe.top_k", c.moe.top_k, 8);
    let experts = Factor::new("model.moe.experts", c.moe.experts, 256);
    let f = Factor::new("model.moe.d_expert", c.moe.d_expert, 8192);
    let q = [Factor::new("model.heads", c.heads, 64), Factor::new("model.head_dim", c.head_dim, 128)];
    let vocab = Factor::new("model.vocab", c.vocab, 131_072);
    let shared = Factor::new("model.moe.d_shared", c.moe.d_shared, 8192);
    let dense = Factor::new("model.d_dense", c.d_dense, 8192);
    // Each expert's rows fill whole tiles, so up to one tile an expert holds next to nothing.
    let padding = unit * (tile_rows as u64 - 1);
    vec![
        Need::new("the logits", unit, &[batch, seq, vocab]),
        Need::new("the residual stream", unit, &[batch, seq, d]),
        Need::new("the queries", unit, &[batch, seq, q[0], q[1]]),
        Need::new("the router's scores", 4, &[batch, seq, experts]),
        Need::new("the rows of the experts", unit, &[batch, seq, k, d]),
        Need::new("the hidden rows of the experts", unit, &[batch, seq, k, f]),
        Need::new("the hidden rows of the shared expert", unit, &[batch, seq, shared]),
        Need::new("the hidden rows of the dense layers", unit, &[batch, seq, dense]),
        Need::new("the tiles of the experts", padding, &[experts, d]),
        Need::new("the hidden tiles of the experts", padding, &[experts, f]),
    ]
}

fn bytes(precision: Precision) -> u64 {
    if precision == Precision::F16 { 2 } else { 4 }
}

/// The least that a run takes, by parts: what lives as long as it, and of a step the residual stream of every layer and the
/// logits. Bytes.
fn least(config: &RunConfig) -> Vec<Need> {
    let (c, train) = (&config.model, &config.train);
    // Weight, gradient and what the rule keeps at the least, Muon a momentum and AdamW two moments; in mixed precision also a copy in
    // f16.
    let kept = if config.optimizer.rule == Rule::Muon { 4 } else { 8 };
    let copies = 8 + kept + if train.precision == Precision::F16 { 2 } else { 0 };
    let mut needs: Vec<Need> = parameters(c).iter().map(|need| need.times(copies, 4)).collect();
    let layers = Factor::new("model.layers", c.layers, 64);
    let d = Factor::new("model.d_model", c.d_model, 8192);
    let f = Factor::new("model.moe.d_expert", c.moe.d_expert, 8192);
    let covered = ExpertMatrix::ALL.into_iter().filter(|&m| config.spectral.covers(m)).count() as u64;
    // W_c and what the rule keeps of it.
    let decoupled = c.moe_layers().into_iter().filter(|&layer| config.spectral.covers_layer(layer)).count();
    let with_experts = Factor::new("model.layers", decoupled, 64);
    needs.push(Need::new("the common matrices", (4 + kept) * covered, &[with_experts, d, f]));
    let (batch, seq) = (Factor::new("train.batch", train.batch, 64), Factor::new("train.seq", train.seq, 8192));
    let vocab = Factor::new("model.vocab", c.vocab, 131_072);
    let unit = bytes(train.precision);
    needs.push(Need::new("the residual stream of all layers", unit, &[layers, batch, seq, d]));
    needs.push(Need::new("the logits", unit, &[batch, seq, vocab]));
    needs
}

/// Fails where the least that a run takes is more than `memory` bytes.
fn fits_together(config: &RunConfig, memory: u64) -> Result<()> {
    let needs = least(config);
    let sum: u128 = needs.iter().map(Need::bytes).sum();
    if sum <= u128::from(memory) {
        return Ok(());
    }
    Err(too_much(&needs, &format!("this machine has {}", mib(u128::from(memory)))))
}

/// An error that names the setting behind the largest of `needs`.
fn too_much(needs: &[Need], but: &str) -> Error {
    let sum: u128 = needs.iter().map(Need::bytes).sum();
    let most = needs.iter().max_by_key(|need| need.bytes());
    let message = format!(
        "weights, gradients, optimizer and activations take {} at the least, of which {}; {but}",
        mib(sum),
        most.map(Need::words).unwrap_or_default(),
    );
    Error::config(most.map_or("model", Need::setting), message)
}

/// Checks that `gpu` can hold a model's weights for inference, where its memory is the machine's.
///
/// # Errors
/// [`Error::Config`] says what they take and what takes less.
#[cfg(feature = "files")]
pub(crate) fn check_inference(gpu: &Gpu, plan: &MemoryPlan, weights: WeightType) -> Result<()> {
    match memory_of(gpu) {
        Some(memory) if plan.bytes(weights) > memory => {
            Err(weights_too_large(plan, weights, &format!("this machine has {}", mib(u128::from(memory)))))
        }
        _ => Ok(()),
    }
}

/// The error of a device whose memory did not suffice for a model's weights, with what takes less.
#[cfg(any(test, feature = "files"))]
pub(crate) fn explain_inference(plan: &MemoryPlan, weights: WeightType, error: Error) -> Error {
    match error {
        Error::OutOfMemory { message, .. } => weights_too_large(plan, weights, &format!("the device says: {message}")),
        other => other,
    }
}

#[cfg(any(test, feature = "files"))]
fn weights_too_large(plan: &MemoryPlan, weights: WeightType, but: &str) -> Error {
    let shown = |bytes: u64| mib(u128::from(bytes));
    let (largest, less) = match weights {
        WeightType::AsStored => (plan.buffers.first(), String::new()),
        WeightType::F32 if plan.inference < plan.inference_f32 => {
            (None, format!("; in the types of the files they take {}", shown(plan.inference)))
        }
        WeightType::F32 => (None, String::new()),
    };
    let largest = largest.map(|(name, bytes)| format!(", of which `{name}` {}", shown(*bytes))).unwrap_or_default();
    Error::config("model", format!("weights take {}{largest}; {but}{less}", shown(plan.bytes(weights))))
}

/// The error of a device that a run was set up on: where its memory did not suffice, with the setting that takes most of it.
#[cfg(any(test, feature = "files"))]
pub(crate) fn explain(config: &RunConfig, error: Error) -> Error {
    match error {
        Error::OutOfMemory { message, .. } => too_much(&least(config), &format!("the device says: {message}")),
        other => other,
    }
}

/// Bytes of memory and swap that this process can have, as Linux says; none elsewhere.
fn host_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        text.lines().find_map(|l| l.strip_prefix(name))?.trim().trim_end_matches("kB").trim().parse().ok()
    };
    let machine = (kib("MemTotal:")? + kib("SwapTotal:").unwrap_or(0)) << 10;
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|t| t.trim().parse().ok());
    Some(container.map_or(machine, |c: u64| machine.min(c)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::config::Preset;
    use crate::tensor::DType;

    fn refused(change: impl FnOnce(&mut RunConfig), bytes: u64) -> String {
        let mut config = RunConfig::preset(Preset::Tiny);
        change(&mut config);
        config.validate().unwrap();
        let buffers = activations(&config, 64).iter().try_for_each(|need| need.fits(bytes));
        buffers.and_then(|()| fits_together(&config, bytes)).unwrap_err().to_string()
    }

    #[test]
    fn a_batch_that_no_buffer_holds_is_told_by_its_setting() {
        let shown = refused(|c| c.train.batch = 1 << 20, 1 << 31);
        assert!(
            shown.starts_with("config: train.batch: asks for a buffer of at least 128 GiB for the logits ("),
            "{shown}"
        );
        assert!(refused(|c| c.train.seq = 1 << 20, 1 << 31).starts_with("config: train.seq: "));
        let shown = refused(|c| (c.model.moe.experts, c.model.moe.d_expert) = (64, 1 << 17), 1 << 31);
        assert!(shown.starts_with("config: model.moe.d_expert: "), "{shown}");
    }

    #[test]
    fn what_the_machine_cannot_hold_is_told_by_the_largest_part() {
        let config = RunConfig::preset(Preset::Tiny);
        fits_together(&config, 1 << 30).unwrap();
        let shown = fits_together(&config, 1 << 20).unwrap_err().to_string();
        assert!(shown.starts_with("config: model.") && shown.contains("; this machine has 1 MiB"), "{shown}");
        let shown = explain(&config, Error::OutOfMemory { message: "Out of Memory".into(), source: None }).to_string();
        assert!(shown.starts_with("config: model.") && shown.ends_with("; the device says: Out of Memory"), "{shown}");
        assert_eq!(explain(&config, Error::Device("lost".into())).to_string(), "GPU device: lost");
        if cfg!(target_os = "linux") {
            assert!(host_memory().unwrap() > 64 << 20);
        }
    }

    #[test]
    fn weights_that_do_not_fit_are_told_with_what_takes_less() {
        let config = RunConfig::preset(Preset::Tiny).model;
        let plan = MemoryPlan::new(&config, |_| DType::Bf16).unwrap();
        assert!(plan.inference < plan.inference_f32 * 52 / 100 && plan.training == 4 * plan.inference_f32, "{plan:?}");
        assert_eq!(plan.buffers.iter().map(|(_, bytes)| bytes).sum::<u64>(), plan.inference);
        let full = || Error::OutOfMemory { message: "Out of Memory".into(), source: None };
        let wide = explain_inference(&plan, WeightType::F32, full()).to_string();
        assert!(wide.starts_with("config: model: weights take 7 MiB; the device says: Out of Memory"), "{wide}");
        assert!(
            wide.ends_with("; the device says: Out of Memory; in the types of the files they take 3 MiB"),
            "{wide}"
        );
        let stored = explain_inference(&plan, WeightType::AsStored, full()).to_string();
        assert!(stored.contains("weights take 3 MiB, of which `layers.0.moe.experts."), "{stored}");
        assert!(stored.ends_with("; the device says: Out of Memory"), "{stored}");
        assert_eq!(
            explain_inference(&plan, WeightType::F32, Error::Device("lost".into())).to_string(),
            "GPU device: lost"
        );
    }

    #[test]
    fn the_least_is_less_than_what_is_measured() {
        // README.md has the tiny preset's peak, 86 MiB; its 2004096 parameters take 31 MiB.
        let sum: u128 = least(&RunConfig::preset(Preset::Tiny)).iter().map(Need::bytes).sum();
        assert!((31 << 20..86 << 20).contains(&sum), "{sum}");
    }
}
