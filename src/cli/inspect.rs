//! `sdmoe inspect`: what a checkpoint holds, and whether anything is wrong with it; no device is opened.

use std::path::PathBuf;

use crate::checkpoint::inspect::{Experts, Inspection, inspect};
use crate::checkpoint::others;
use crate::error::{Error, Result};
use crate::nn::config::{ModelConfig, SharedGate};
use crate::nn::memory::{MemoryPlan, Purpose, WeightType};
use crate::report::thousands;
use crate::train::progress::plain;

/// Flags of `sdmoe inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A Hugging Face folder, a run, a checkpoint, or one .safetensors file
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// Write the findings to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Inspects.
pub(super) fn run(args: &Args) -> Result<()> {
    if let Some(path) = &args.json {
        super::writable("--json", path)?;
    }
    let found = inspect(&args.target)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&found)
            .map_err(|e| Error::config("--json", format!("a figure that is no number: {e}")))?;
        crate::checkpoint::write_file_atomically(path, text.as_bytes())?;
    }
    super::print(&words(&found))?;
    match found.fault() {
        Some(fault) => Err(Error::checkpoint(&args.target, fault)),
        None => Ok(()),
    }
}

/// The findings, a line each.
fn words(found: &Inspection) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<12} {text}\n"));
    let source = match found.source {
        "run" => "a run of this program",
        "checkpoint" => "a checkpoint of this program",
        "hugging_face" => "a Hugging Face folder",
        _ => "a file",
    };
    line("family", format!("{} ({source})", plain(&found.family)));
    if let Some(model) = &found.model {
        shape(model, found.context, &mut line);
    }
    for layers in &found.stacks {
        let text = format!(
            "{}: {} experts of {} x {} in {} layers, {}",
            plain(&layers.stack),
            layers.experts,
            layers.d_model,
            layers.d_expert,
            layers.layers.len(),
            ranges(&layers.layers)
        );
        line("stack", text);
    }
    let active = found.active.map_or(String::new(), |n| format!(", {} active a token", thousands(n)));
    line("parameters", format!("{}{active}", thousands(found.parameters)));
    let types: Vec<String> = found.types.iter().map(|(name, n)| format!("{} {name}", thousands(*n))).collect();
    let layout = found.layout.map_or(String::new(), |layout| format!("; experts {layout}"));
    let files = if found.files == 1 { "1 file".into() } else { format!("{} files", found.files) };
    line("tensors", format!("{} ({}), in {files}{layout}", thousands(found.tensors), types.join(", ")));
    line("bytes", thousands(found.bytes as usize));
    for part in &found.parts {
        let tensors = if part.tensors == 1 { "1 tensor".into() } else { format!("{} tensors", part.tensors) };
        line("", format!("{:<16} {:>16}  in {tensors}", part.name, thousands(part.bytes as usize)));
    }
    if let Some(memory) = &found.memory {
        plan(memory, found.types.contains_key("F16"), found.source == "hugging_face", &mut line);
    }
    for (name, list) in [
        ("missing", &found.missing),
        ("unknown", &found.unknown),
        ("unfit", &found.unfit),
        ("not needed", &found.skipped),
    ] {
        some(list).into_iter().for_each(|text| line(name, text));
    }
    match &found.not_finite[..] {
        [] => line("numbers", "all are finite".into()),
        list => {
            let each = list.iter().map(|n| format!("{} of `{}`, the first at {}", n.count, n.tensor, n.first));
            some(&each.collect::<Vec<_>>()).into_iter().for_each(|text| line("not finite", text));
        }
    }
    if !found.stacks.is_empty() {
        match (&found.zero_experts[..], &found.equal_experts[..]) {
            ([], []) => line("experts", "none is zero, and no two of a layer are equal".into()),
            (zero, equal) => {
                zero.iter().for_each(|e| line("zero", in_layer(e)));
                equal.iter().for_each(|e| line("equal", in_layer(e)));
            }
        }
    }
    some(&found.ignored_fields).into_iter().for_each(|text| line("ignored", format!("config.json: {text}")));
    some(&found.unknown_fields).into_iter().for_each(|text| line("not known", format!("config.json: {text}")));
    if let Some(why) = &found.cannot_run {
        line("cannot run", plain(why).into_owned());
    }
    lines.concat()
}

/// The sizes of a model.
fn shape(model: &ModelConfig, context: Option<usize>, line: &mut impl FnMut(&str, String)) {
    let (moe, with) = (&model.moe, model.moe_layers().len());
    let dense = model.layers - with;
    let width = if dense > 0 { format!(" of hidden width {}", model.d_dense) } else { String::new() };
    line("layers", format!("{}: {with} with experts, {dense} dense{width}", model.layers));
    if with > 0 {
        let shared = match (moe.d_shared, moe.shared_gate) {
            (0, _) => String::new(),
            (width, SharedGate::None) => format!("; shared: hidden width {width}"),
            (width, SharedGate::Sigmoid) => format!("; shared: hidden width {width}, with a gate"),
        };
        line(
            "experts",
            format!("{} a layer, {} a token, hidden width {}{shared}", moe.experts, moe.top_k, moe.d_expert),
        );
    }
    let kv = match &model.attention.latent {
        Some(latent) => format!("latent, of rank {}", latent.kv_rank),
        None => format!("{} for keys and values", model.kv_heads),
    };
    line("attention", format!("{} heads of {} ({kv})", model.heads, model.head_dim));
    let tied = if model.tied_head { ", tied head" } else { "" };
    let context = context.map_or(String::new(), |n| format!(", context {n}"));
    line("model", format!("width {}, vocabulary {}{tied}{context}", model.d_model, model.vocab));
}

/// The memory that the model takes on a device, with f16 where it is in its files; `published` models can run by layer.
fn plan(memory: &MemoryPlan, f16: bool, published: bool, line: &mut impl FnMut(&str, String)) {
    let bytes = |n: u64| thousands(n as usize);
    let wide = if memory.inference == memory.inference_f32 {
        String::new()
    } else {
        format!(" ({} in f32{})", bytes(memory.inference_f32), if f16 { ", as on a device without f16" } else { "" })
    };
    line(
        "on a device",
        format!(
            "to run: {} bytes of weights{wide}, {} a token of keys and values",
            bytes(memory.inference),
            bytes(memory.token)
        ),
    );
    line(
        "",
        format!(
            "to train: {} of weights, gradients and AdamW's moments in f32, and activations",
            bytes(memory.training)
        ),
    );
    if published {
        let [evaluate, analyse] =
            [Purpose::from(WeightType::AsStored), Purpose::Gradients].map(|p| memory.part_bytes(p));
        line(
            "",
            format!("by layer: {} at a time to evaluate, {} to analyse with a text", bytes(evaluate), bytes(analyse)),
        );
    }
    if let Some((name, largest)) = memory.buffers.first() {
        line("", format!("the largest buffer: {}, `{name}`", bytes(*largest)));
    }
}

/// The first of many names or sentences; none where there are none.
fn some(list: &[String]) -> Option<String> {
    const SHOWN: usize = 16;
    let more = list.len().saturating_sub(SHOWN);
    let first: Vec<_> = list.iter().take(SHOWN).map(|text| plain(text).into_owned()).collect();
    (!list.is_empty()).then(|| format!("{}{}", first.join("; "), others(more)))
}

fn in_layer(some: &Experts) -> String {
    format!("experts {} of layer {} ({})", ranges(&some.experts), some.layer, plain(&some.stack))
}

/// `0-3, 7`.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => parts.push((n, n)),
        }
    }
    let part =
        |(first, last): (usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.into_iter().map(part).collect::<Vec<_>>().join(", ")
}
