//! `sdmoe train`: from flags to a checked plan, then the run, then what came of it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::data::Corpus;
use crate::data::text_tokenizer::{TOKENIZER_FILE, TextTokenizer};
use crate::error::{Error, Result};
use crate::nn::config::{Precision, Preset};
use crate::optim::Rule;
use crate::train::config::{Recompute, RunConfig};
use crate::train::metrics::{Side, Similarity};
use crate::train::pretrained::Pretrained;
use crate::train::progress::{Display, say};
use crate::train::run::run_on;
use crate::train::run_folder::RunFolder;
use crate::train::saved::SavedRun;
use crate::train::summary::Summary;
use crate::train::warnings::settings_warnings;
use crate::train::{Outcome, Plan};

use super::device::{DeviceArgs, TuneArgs};
use super::stop::{INTERRUPTED, Stop};
use super::usage::{Layers, layers, whole};
use super::{shown, warn};

/// Flags of `sdmoe train`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C finishes the step, writes a checkpoint and ends with exit code 130, and so do SIGTERM and SIGHUP; a \
                  second Ctrl-C ends at once."
)]
pub(super) struct Args {
    /// Files or folders to train on, any text or bytes, or - for standard input; the end of each file is held out for
    /// validation
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Train on the tokens of this tokenizer.json, or of the folder that has one, in place of bytes; the vocabulary grows to
    /// it
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    tokenizer: Option<PathBuf>,
    /// Settings to start from: tiny, small or base [default: tiny]
    #[arg(long, value_parser = preset, value_name = "NAME", conflicts_with = "resume")]
    preset: Option<Preset>,
    /// File of settings, over the preset's; other flags go over it
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Optimizer steps of the whole run
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    steps: Option<u64>,
    /// Sequences a batch
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    batch: Option<usize>,
    /// Tokens a sequence
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    seq: Option<usize>,
    /// Update rule: adamw, or muon for the matrices of hidden layers with adamw for all else [default: adamw]
    #[arg(long, value_name = "adamw|muon", value_parser = rule)]
    optimizer: Option<Rule>,
    /// Highest learning rate
    #[arg(long, value_name = "LR")]
    lr: Option<f32>,
    /// Storage of activations and of the weights in products; f16 with sums, master weights and optimizer in f32
    /// [default: f32]
    #[arg(long, value_name = "f32|f16", value_parser = precision)]
    precision: Option<Precision>,
    /// Seed of the parameters and of the order of the data
    #[arg(long, value_name = "S", value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Spectral decoupling of the experts [default: on; with --from as the model is]
    #[arg(long, value_name = "on|off")]
    spectral: Option<Switch>,
    /// Rank k of the experts' common bases
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    rank: Option<usize>,
    /// Decouple the experts of these layers only: 0-3,7
    #[arg(long, value_name = "LIST", value_parser = layers)]
    spectral_layers: Option<Layers>,
    /// Parameters that do not move, by names or patterns: embed, experts, layers.*.attn; without any, everything moves
    #[arg(long, value_name = "PATTERN", num_args = 0..)]
    freeze: Option<Vec<String>>,
    /// What backward makes again instead of keeping it: `experts` saves about half of the activations' memory
    #[arg(long, value_parser = recompute, value_name = "none|experts")]
    recompute: Option<Recompute>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// With --precision f16: products on matrix units, through wgpu's experimental cooperative matrices (see
    /// `sdmoe devices`); a resumed run needs it again
    #[arg(long)]
    matrix_units: bool,
    /// Folder of the run [default: runs/<preset or family>-<n>, the first number that is free]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, from its last checkpoint; its own settings hold, flags go over them
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Begin a new run with the model of a Hugging Face folder, of another run, or of `sdmoe decouple`; only --seq, --batch, --lr
    /// and the decoupling begin as suits it, and a --config file may not change it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["resume", "preset", "tokenizer"])]
    from: Option<PathBuf>,
    /// The report on the experts at the end, in the run's folder (see `sdmoe analyze`) [default: on]
    #[arg(long, value_name = "on|off")]
    report: Option<Switch>,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

fn preset(name: &str) -> Result<Preset, String> {
    match name {
        "tiny" => Ok(Preset::Tiny),
        "small" => Ok(Preset::Small),
        "base" => Ok(Preset::Base),
        _ => Err("expected tiny, small or base".into()),
    }
}

fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "f32" => Ok(Precision::F32),
        "f16" => Ok(Precision::F16),
        _ => Err("expected f32 or f16".into()),
    }
}

fn rule(name: &str) -> Result<Rule, String> {
    match name {
        "adamw" => Ok(Rule::AdamW),
        "muon" => Ok(Rule::Muon),
        _ => Err("expected adamw or muon".into()),
    }
}

fn recompute(name: &str) -> Result<Recompute, String> {
    match name {
        "none" => Ok(Recompute::None),
        "experts" => Ok(Recompute::Experts),
        _ => Err("expected none or experts".into()),
    }
}

fn preset_name(preset: Preset) -> &'static str {
    match preset {
        Preset::Tiny => "tiny",
        Preset::Small => "small",
        Preset::Base => "base",
    }
}

impl Args {
    /// The settings: preset or those for a model that is there, file, flags, each over the last; for a resumed run its own
    /// settings, then flags.
    fn settings(&self, from: Option<&Pretrained>) -> Result<(RunConfig, TextTokenizer)> {
        let mut config = match (&self.resume, from, &self.config) {
            (Some(dir), ..) => RunConfig::from_file(&RunFolder::resume(dir)?.config_path(), None)?,
            (None, Some(source), Some(file)) => source.run_config().with_file(file)?,
            (None, Some(source), None) => source.run_config(),
            (None, None, Some(file)) => RunConfig::from_file(file, self.preset)?,
            (None, None, None) => RunConfig::preset(self.preset.unwrap_or(Preset::Tiny)),
        };
        fn set<T: Clone>(setting: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *setting = value.clone();
            }
        }
        set(&mut config.train.precision, &self.precision);
        set(&mut config.train.steps, &self.steps);
        set(&mut config.train.batch, &self.batch);
        set(&mut config.train.seq, &self.seq);
        set(&mut config.optimizer.rule, &self.optimizer);
        set(&mut config.optimizer.lr, &self.lr);
        set(&mut config.seed, &self.seed);
        set(&mut config.spectral.enabled, &self.spectral.map(|s| matches!(s, Switch::On)));
        set(&mut config.spectral.rank, &self.rank);
        set(&mut config.spectral.layers, &self.spectral_layers.as_ref().map(|layers| layers.0.clone()));
        set(&mut config.optimizer.freeze, &self.freeze);
        set(&mut config.train.recompute, &self.recompute);
        if self.device.choice.adapter.is_some() {
            config.adapter.clone_from(&self.device.choice.adapter);
        }
        if !self.data.is_empty() {
            config.data.paths.clone_from(&self.data);
        }
        if self.tokenizer.is_some() {
            config.data.tokenizer.clone_from(&self.tokenizer);
        }
        if let Some(given) = config.data.tokenizer.as_ref().filter(|given| {
            // The text is read as the model reads it.
            from.is_some_and(|source| source.tokenizer_file().as_ref() != Some(*given))
        }) {
            let message = format!("expected none with --from, whose tokenizer reads the text, got {}", given.display());
            return Err(Error::config("data.tokenizer", message));
        }
        let tokenizer = match (&config.data.tokenizer, &self.resume, from) {
            (_, None, Some(source)) => source.tokenizer()?,
            (None, ..) => TextTokenizer::Bytes,
            (Some(_), Some(dir), _) => TextTokenizer::open(&RunFolder::resume(dir)?.hub_path().join(TOKENIZER_FILE))?,
            (Some(path), None, None) => TextTokenizer::open(path)?,
        };
        if self.resume.is_none() {
            config.fit_warmup();
            if config.data.tokenizer.is_some() && from.is_none() {
                config.model.vocab = config.model.vocab.max(tokenizer.vocab());
            }
        }
        tokenizer.require_vocab(config.model.vocab)?;
        config.validate()?;
        config.require_frozen()?;
        if let Some(source) = from {
            source.accepts(&config)?;
        }
        if self.matrix_units && config.train.precision != Precision::F16 {
            return Err(Error::config("--matrix-units", "expected --precision f16, whose products use them, got f32"));
        }
        Ok((config, tokenizer))
    }

    /// Checks everything that needs no device; writes nothing.
    fn plan(&self) -> Result<Plan> {
        let from = self.from.as_deref().map(Pretrained::open).transpose()?;
        let (config, tokenizer) = self.settings(from.as_ref())?;
        let family = from.as_ref().map(Pretrained::family_model).transpose()?.flatten();
        let name = family.map_or(preset_name(config.preset), |(model, _)| model.family.name());
        let folder = match (&self.resume, &self.out) {
            (Some(dir), _) => RunFolder::resume(dir)?,
            (None, Some(dir)) => RunFolder::create(dir)?,
            (None, None) => RunFolder::first_free(Path::new("runs"), name),
        };
        let mut resume = None;
        if self.resume.is_some() {
            // Before the checkpoint is read: nobody may replace it from here on.
            folder.hold()?;
            let saved = SavedRun::open(&folder.checkpoint_path())?;
            saved.model.accepts(&config)?;
            folder.require_work(saved.model.step, config.train.steps)?;
            resume = Some(saved);
        }
        let (paths, fraction) = (&config.data.paths, config.data.validation_fraction);
        let corpus = Corpus::tokenized(paths, fraction, &tokenizer, Some(&folder.tokens_path()))?;
        corpus.require(config.train.seq)?;
        if let Some(saved) = &resume {
            saved.model.complete()?;
        }
        if let Some(source) = &from {
            source.complete()?;
        }
        Ok(Plan { config, corpus, tokenizer, folder, resume, from })
    }
}

/// Trains.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let plan = args.plan()?;
    let display = match args.quiet {
        true => Display::Quiet,
        false if std::io::stderr().is_terminal() => Display::Bar,
        false => Display::Lines,
    };
    if !args.quiet {
        say(&format!("data: {}", plan.corpus.description()));
        say(&format!("run:  {}", plan.folder.dir().display()));
        if let Some(source) = &plan.from {
            say(&format!("from: {}", begun(source, &plan.config)));
        }
    }
    if let Some(source) = plan.from.as_ref().filter(|source| source.context() < plan.config.train.seq) {
        let (seq, context) = (plan.config.train.seq, source.context());
        warn(&format!("train.seq = {seq} is more than the {context} tokens that the model was made for"));
    }
    if plan.resume.as_ref().is_some_and(|saved| !saved.model.trained_on(plan.corpus.fingerprint())) {
        say("note: the data are not those that this run was started with");
    }
    let (steps, resumed) = (plan.config.train.steps, plan.resume.as_ref().filter(|_| !args.quiet));
    if let Some((last, next)) = resumed.and_then(|saved| saved.model.rising_rate(&plan.config)) {
        say(&format!(
            "note: the learning rate rises from {last:.2e} to {next:.2e}: its schedule stretches over all {steps} steps"
        ));
    }
    if resumed.is_some_and(|saved| saved.model.step == steps) {
        say(&format!("all {steps} steps are done; the run ended before its summary, which is made now"));
    }
    // With its lock, which is held until the report is there.
    let folder = plan.folder.clone();
    let dir = folder.dir().to_owned();
    let doubtful = settings_warnings(&plan.config);
    doubtful.iter().for_each(|warning| warn(&warning.message));
    for (flag, given) in [("--rank", args.rank.is_some()), ("--spectral-layers", args.spectral_layers.is_some())] {
        if given && !plan.config.spectral.enabled {
            warn(&format!("{flag} has no effect: spectral decoupling is off"));
        }
    }
    // A model without experts has nothing to report on.
    let with_experts = !plan.config.model.moe_layers().is_empty();
    let reports = with_experts && !matches!(args.report, Some(Switch::Off));
    let held_out = if reports { plan.corpus.held_out().to_vec() } else { Vec::new() };
    let unit = plan.tokenizer.unit();
    let stop = Stop::listen()?;
    let options = args.device.options().adapter(plan.config.adapter.as_deref()).matrix_units(args.matrix_units);
    let gpu = args.tune.open(&options)?;
    match pollster::block_on(run_on(&gpu, plan, display, stop.asked()))? {
        Outcome::Finished { summary, sample } => {
            if display == Display::Quiet {
                // Nothing was reported on the way.
                let found = summary.warnings.iter().filter(|w| w.step.is_some());
                found.for_each(|warning| warn(&warning.message));
            }
            super::print(&report(&summary, &sample, unit, &dir))?;
            if reports {
                // From here on an interrupt loses nothing but the report.
                stop.saved();
                let display = if display == Display::Bar { Display::Bar } else { Display::Quiet };
                let page = super::analyze::report_run(&gpu, &dir, &held_out, display)?;
                super::print(&format!("report on the experts: {}\n", shown(&page)))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted { step } => {
            super::print(&format!("stopped after step {step}; go on with: sdmoe train --resume {}\n", shown(&dir)))?;
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// The model that a run begins with, and the settings that were chosen for it, for a person.
fn begun(source: &Pretrained, config: &RunConfig) -> String {
    let decoupled = match source {
        _ if source.config().moe_layers().is_empty() => String::new(),
        Pretrained::Saved(saved) if saved.config.spectral.decouples() && config.spectral.decouples() => String::new(),
        _ if config.spectral.decouples() => format!(", which is decoupled now with rank {}", config.spectral.rank),
        _ => ", whose experts train merged (--spectral on decouples them)".into(),
    };
    let (train, lr) = (&config.train, config.optimizer.lr);
    let what = source.description();
    format!("{what}{decoupled}; {} sequences of {} tokens a step, learning rate {lr:e}", train.batch, train.seq)
}

/// The final figures for a person.
fn report(summary: &Summary, sample: &str, unit: &str, dir: &Path) -> String {
    let mut lines = Vec::new();
    let mut line = |s: String| lines.push(s);
    line(format!("sample:\n{sample}\n"));
    line(format!(
        "validation loss {:.4} nats per {unit} = {:.4} bits per byte",
        summary.val_loss, summary.bits_per_byte
    ));
    line(format!(
        "{} steps, {} {unit}s, {:.0} tokens/s on {}",
        summary.steps, summary.tokens, summary.tokens_per_second, summary.adapter
    ));
    line(format!(
        "{} parameters, {} of them active for a token; {:.0} MiB of GPU memory at most",
        summary.parameters,
        summary.active_parameters,
        summary.peak_gpu_bytes as f64 / f64::from(1 << 20)
    ));
    for (side, name) in [(Side::Model, "model"), (Side::Hidden, "hidden")] {
        let of_side: Vec<_> = summary.similarity.iter().filter(|s| s.side == side).collect();
        if of_side.is_empty() {
            continue;
        }
        let mean = |f: fn(&Similarity) -> Option<f32>| {
            let found: Vec<f32> = of_side.iter().filter_map(|s| f(s)).collect();
            if found.is_empty() { None } else { Some(found.iter().sum::<f32>() / found.len() as f32) }
        };
        let unique = mean(|s| s.unique).map_or(String::new(), |u| format!("unique parts {u:.3}, "));
        line(format!(
            "similarity of the experts, {name} side: merged {:.3}, {unique}chance {:.3}",
            mean(|s| Some(s.merged)).unwrap_or_default(),
            mean(|s| Some(s.chance)).unwrap_or_default()
        ));
    }
    line(format!("metrics, summary and checkpoint: {}\n", shown(dir)));
    lines.join("\n")
}
