//! `sdmoe analyze`: how specialised the experts of a checkpoint are, as a report; or of two, side by side.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::analysis::Controls;
use crate::analysis::curves::training;
use crate::analysis::data::{DataOptions, add_data};
use crate::analysis::pairs::Detail;
use crate::analysis::record::{Analysis, OtherStack};
use crate::analysis::spectra::SpectrumOptions;
use crate::analysis::trace;
use crate::analysis::whole::{AnalysisOptions, analyze_weights, target_name};
use crate::checkpoint::experts::Source;
use crate::checkpoint::{ExpertCheckpoint, ExpertStack};
use crate::data::Tokens;
use crate::data::sources::{self, SourceWindows};
use crate::data::text_tokenizer::TextTokenizer;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::memory::Purpose;
use crate::report;
use crate::train::compiling::CompileNotice;
use crate::train::config::RunConfig;
use crate::train::pretrained::Pretrained;
use crate::train::progress::{Display, plain, say};
use crate::train::run_folder::RunFolder;
use crate::train::warnings;

use super::analysis_bar::AnalysisBar;
use super::by_layer::{ByLayerArgs, Loaded};
use super::device::DeviceArgs;
use super::usage::{Layers, layers, whole};
use super::{shown, warn};

/// Tokens looked at, where nothing else is said: seconds on a CPU for a tiny model.
const TOKENS: usize = 8192;
/// More than a device holds the activations of.
const MOST_TOKENS: usize = 1 << 24;
/// The longest sequences of a published model: what attention costs grows with them.
const USUAL_CONTEXT: usize = 256;
/// Tokens, among those looked at, at which Jacobians are taken.
const JACOBIANS: usize = 32;

/// A run's report within its folder.
const FOLDER: &str = "analysis";

/// Stacks of layers of one target that are analysed: more than models have.
const STACKS: usize = 8;

/// Flags of `sdmoe analyze`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run, a checkpoint, a Hugging Face folder or a .safetensors file
    #[arg(value_name = "TARGET", required_unless_present = "compare")]
    target: Option<PathBuf>,
    /// Two targets side by side: a baseline and what is compared with it
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with = "target")]
    compare: Vec<PathBuf>,
    /// Text for activations, gradients, Jacobians and load, for models that this program can run; each file, or each
    /// entry of one folder, is a source
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Folder of the report [default: TARGET/analysis for a run, else analysis-NAME here]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Layers, such as 0-3,7 [default: all]
    #[arg(long, value_name = "LAYERS", value_parser = layers)]
    layers: Option<Layers>,
    /// Share of the singular directions that is the top part
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    top: f64,
    /// Tokens of the text that are looked at [default: 8192]
    #[arg(long, value_name = "N", value_parser = tokens)]
    tokens: Option<usize>,
    /// Seed of sketches, probes and controls
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = whole::<u64>)]
    seed: u64,
    /// Write the choices of each token of the text as a table, a line for each token and layer: its experts in the order of
    /// the choice, and their weights
    #[arg(long, value_name = "FILE.csv", requires = "data", conflicts_with = "compare")]
    trace: Option<PathBuf>,
    /// Say which experts are needed least: the loss on the text without an eighth, a quarter and half of each layer's experts, by
    /// two orders and at random, and the experts to keep as keep.json. It costs some 16 further forward passes over the text
    #[arg(long, requires = "data")]
    prune: bool,
    /// Share of the singular values that is computed, or all
    #[arg(long, value_name = "SHARE|all", default_value = "10%", value_parser = values)]
    values: f64,
    /// What the record keeps of pairs of experts: all; maps of blocks and the largest pairs; or only means, and but for
    /// all no curves of single experts [default: full up to 64 experts in a layer, else top]
    #[arg(long, value_name = "full|top|none")]
    pairs: Option<PairsArg>,
    #[command(flatten)]
    by_layer: ByLayerArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Values of `--pairs`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PairsArg {
    Full,
    Top,
    None,
}

impl From<PairsArg> for Detail {
    fn from(pairs: PairsArg) -> Self {
        match pairs {
            PairsArg::Full => Detail::Full,
            PairsArg::Top => Detail::Top,
            PairsArg::None => Detail::None,
        }
    }
}

/// `1%` or `0.01`.
fn share(text: &str) -> Result<f64, String> {
    let number = |s: &str| s.trim().parse::<f64>().ok();
    let share = text.strip_suffix('%').map_or_else(|| number(text), |s| number(s).map(|x| x / 100.0));
    share.filter(|s| *s > 0.0 && *s <= 1.0).ok_or_else(|| format!("expected a share such as 1% or 0.01, got {text}"))
}

fn values(text: &str) -> Result<f64, String> {
    if text == "all" { Ok(1.0) } else { share(text) }
}

fn tokens(text: &str) -> Result<usize, String> {
    let expected = || format!("expected a number of at least 1 and at most {MOST_TOKENS}, got {text}");
    text.parse().ok().filter(|n| (1..=MOST_TOKENS).contains(n)).ok_or_else(expected)
}

/// A text for a model that can run.
struct Text {
    model: Pretrained,
    /// Tokens of a sequence.
    seq: usize,
    /// The sources' names.
    names: Vec<String>,
    windows: SourceWindows,
}

impl Text {
    /// About `tokens` tokens of `sources`, as the tokenizer of the model at `path` has them.
    fn new(path: &Path, sources: &[sources::Source], tokens: usize) -> Result<Self> {
        let model = Pretrained::open(path)?;
        model.complete()?;
        let seq = match &model {
            Pretrained::Saved(saved) if saved.hub_folder().is_none() => model.context(),
            _ => model.context().min(USUAL_CONTEXT),
        };
        let tokenizer = model.tokenizer()?;
        let count = tokens.div_ceil(seq);
        let windows = if matches!(tokenizer, TextTokenizer::Bytes) {
            sources::windows(sources, count, seq)?
        } else {
            let encode = |source: &sources::Source| {
                let named = |e| Error::Data(format!("{}: {e}", source.name));
                tokenizer.encode(&source.bytes, false).map_err(named)
            };
            let ids = sources.iter().map(encode).collect::<Result<Vec<_>>>()?;
            let all: Vec<Tokens<'_>> = ids.iter().map(Tokens::from).collect();
            sources::windows_of(&all, count, seq)?
        };
        let names = sources.iter().map(|source| source.name.clone()).collect();
        Ok(Self { model, seq, names, windows })
    }
}

/// The questions about the text.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// Its name in the report.
    label: &'a str,
    /// Tokens at which Jacobians are taken.
    jacobians: usize,
    /// The file for the choices of each token.
    trace: Option<&'a Path>,
    /// Whether the loss without some experts is wanted.
    prune: bool,
    /// The flags that say how the model is loaded; none for a run that has just finished on the device.
    loading: Option<(ByLayerArgs, &'a DeviceArgs)>,
}

/// A target, opened and checked, and the text for it.
struct Subject {
    path: PathBuf,
    checkpoint: ExpertCheckpoint,
    text: Option<Text>,
}

impl Subject {
    /// Opens what is at `path`; reads only headers, unless there is text for it.
    fn open(path: &Path, text: Option<&[sources::Source]>, tokens: usize) -> Result<Self> {
        let checkpoint = ExpertCheckpoint::open(path)?;
        // What cannot run says why, and that without --data the weights of any checkpoint are analysed.
        let without = |error| match error {
            Error::Checkpoint { path, message } => {
                Error::checkpoint(&path, format!("{message} (without --data the weights alone are analysed)"))
            }
            other => other,
        };
        let text = text.map(|text| Text::new(path, text, tokens).map_err(without)).transpose()?;
        Ok(Self { path: path.to_owned(), checkpoint, text })
    }

    fn name(&self) -> String {
        target_name(&self.path, self.checkpoint.source())
    }

    /// Each of the other stacks of layers of the checkpoint, from its weights alone, and the folder of its report
    /// within this one's.
    fn others(&self) -> Vec<(OtherStack, Subject)> {
        let stacks = self.checkpoint.stacks().iter().enumerate().take(STACKS).skip(1);
        let other = |(i, stack): (usize, &ExpertStack)| {
            let checkpoint = self.checkpoint.with_stack(i)?;
            let other = OtherStack { name: stack.label(), folder: format!("stack-{}", i + 1) };
            Some((other, Subject { path: self.path.clone(), checkpoint, text: None }))
        };
        stacks.filter_map(other).collect()
    }

    /// Names the stacks of layers from the `first` on in a record that leaves them out.
    fn leave_out(&self, first: usize, record: &mut Analysis) {
        let names: Vec<String> =
            self.checkpoint.stacks().iter().skip(first).map(ExpertStack::label).take(STACKS).collect();
        let more = self.checkpoint.stacks().len().saturating_sub(first + names.len());
        let more = if more > 0 { format!(" and {more} others") } else { String::new() };
        if !names.is_empty() {
            record.coverage.incomplete.push(format!("the layers of {}{more} are left out", names.join(", ")));
        }
    }

    /// All that can be said of it. Another device takes the place of `gpu` where that is full.
    async fn analyze(
        &self,
        gpu: &mut Gpu,
        options: &AnalysisOptions,
        asked: Asked<'_>,
        display: Display,
    ) -> Result<Analysis> {
        let bar = AnalysisBar::start(display, options.matrices(&self.checkpoint)?, &self.name());
        let listener = |event: crate::analysis::whole::Event<'_>| bar.hear(event);
        let mut controls = Controls::default();
        // What looks at tokens needs the directions of the weights.
        let spectrum = SpectrumOptions { directions: self.text.is_some(), ..options.spectrum };
        let options = &AnalysisOptions { spectrum, ..options.clone() };
        let mut found = analyze_weights(gpu, &self.path, &self.checkpoint, options, &mut controls, &listener).await?;
        if self.checkpoint.source() == Source::Run && self.checkpoint.stack() == 0 {
            let metrics = RunFolder::resume(&self.path).map(|folder| folder.metrics_path());
            if let Some(metrics) = metrics.ok().filter(|path| path.is_file()) {
                let mut curves = training(&metrics, &self.checkpoint)?;
                match RunConfig::from_file(&self.path.join("config.toml"), None) {
                    Ok(config) => curves.warnings = warnings::of_metrics(&config, &metrics)?.warnings().to_vec(),
                    Err(e) => say(&format!("note: without the warnings of the run: {e}")),
                }
                found.analysis.training = Some(curves);
            }
        }
        if let Some(Text { model, seq, names, windows }) = &self.text {
            let Asked { label, jacobians, trace, prune, loading } = asked;
            // What the weights' analysis has left.
            gpu.trim()?;
            let (own, model) = match loading {
                Some((by_layer, device)) => by_layer.load(model, Purpose::Gradients, device, gpu.clone()).await?,
                None => (gpu.clone(), Loaded::Whole(Box::new(model.load(gpu)?))),
            };
            *gpu = own;
            let text = DataOptions { seq: *seq, windows, names, label, jacobians, trace, prune };
            let parts = model.parts();
            add_data(gpu, parts, &self.checkpoint, &text, options, &mut controls, &listener, &mut found).await?;
        }
        Ok(found.analysis)
    }
}

/// Tokens that a finished run's report looks at.
const RUN_TOKENS: usize = 1024;
/// Tokens, among those, at which Jacobians are taken.
const RUN_JACOBIANS: usize = 8;

/// Writes the report of a run that has just finished on `gpu`, whose kernels are compiled, into its folder, with the
/// held-out part of its data as text; gives the page's path.
pub(super) fn report_run(gpu: &Gpu, dir: &Path, held_out: &[u8], display: Display) -> Result<PathBuf> {
    let asked = Asked {
        label: "the held-out part of the run's data",
        jacobians: RUN_JACOBIANS,
        trace: None,
        prune: false,
        loading: None,
    };
    let text = [sources::Source { name: "held-out".into(), bytes: held_out.to_vec() }];
    let subject = Subject::open(dir, Some(&text), RUN_TOKENS)?;
    let options = AnalysisOptions::default();
    let found = pollster::block_on(subject.analyze(&mut gpu.clone(), &options, asked, display))?;
    let folder = dir.join(FOLDER);
    report::write(&folder, &found)?;
    Ok(folder.join(report::PAGE))
}

/// Where the report goes.
fn folder(out: Option<&Path>, subjects: &[Subject]) -> Result<PathBuf> {
    let dir = match (out, subjects) {
        (Some(dir), _) => dir.to_owned(),
        // Never inside what others made.
        (None, [one]) if one.checkpoint.source() == Source::Run => one.path.join(FOLDER),
        (None, all) => {
            let names: Vec<String> = all.iter().map(Subject::name).collect();
            PathBuf::from(format!("analysis-{}", names.join("-")))
        }
    };
    if dir.exists() && !dir.is_dir() {
        return Err(Error::checkpoint(&dir, "expected a folder for the report, found a file"));
    }
    report::check(&dir)?;
    Ok(dir)
}

/// Analyses.
pub(super) fn run(args: &Args) -> Result<()> {
    let display = if std::io::stderr().is_terminal() { Display::Bar } else { Display::Lines };
    let spectrum =
        SpectrumOptions { top: args.top, values: args.values, seed: args.seed, ..SpectrumOptions::default() };
    let options =
        AnalysisOptions { spectrum, layers: args.layers.clone().map(|l| l.0), pairs: args.pairs.map(Detail::from) };
    if args.tokens.is_some() && args.data.is_empty() {
        warn("--tokens has no effect without --data, whose tokens are looked at");
    }
    if args.by_layer.is_on() && args.data.is_empty() {
        warn("--by-layer has no effect without --data, for which the model runs");
    }
    let text = if args.data.is_empty() { None } else { Some(sources::read(&args.data)?) };
    let targets = args.target.iter().chain(&args.compare);
    let open_one = |path: &PathBuf| {
        let subject = Subject::open(path, text.as_deref(), args.tokens.unwrap_or(TOKENS))?;
        options.chosen(&subject.checkpoint)?;
        subject.text.as_ref().map_or(Ok(()), |text| args.by_layer.check(&text.model))?;
        let experts = subject.text.as_ref().map(|text| text.model.config().moe.experts);
        if let Some(experts) = experts.filter(|&experts| args.prune && experts < 2) {
            let message = format!("expected at least 2 experts in a layer, got {experts}");
            return Err(Error::config("--prune", format!("{}: {message}", path.display())));
        }
        Ok(subject)
    };
    let subjects = targets.map(open_one).collect::<Result<Vec<Subject>>>()?;
    let dir = folder(args.out.as_deref(), &subjects)?;
    let label = args.data.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    let asked = Asked {
        label: &label,
        jacobians: JACOBIANS,
        trace: args.trace.as_deref(),
        prune: args.prune,
        loading: Some((args.by_layer, &args.device)),
    };
    asked.trace.map_or(Ok(()), trace::check)?;

    // Numbers of layers are those of the model's own stack, and two targets are compared in these.
    let others = match &subjects[..] {
        [one] if options.layers.is_none() => one.others(),
        _ => Vec::new(),
    };
    others.iter().try_for_each(|(other, _)| report::check(&dir.join(&other.folder)))?;

    let (found, beside) = pollster::block_on(async {
        let mut gpu = Gpu::open(&args.device.options()).await?;
        let _notice = CompileNotice::start(&gpu, say);
        let (mut found, mut beside) = (Vec::new(), Vec::new());
        for subject in &subjects {
            let mut record = subject.analyze(&mut gpu, &options, asked, display).await?;
            subject.leave_out(1 + others.len(), &mut record);
            record.coverage.other_stacks = others.iter().map(|(other, _)| other.clone()).collect();
            found.push(record);
        }
        for (other, subject) in &others {
            beside.push((other, subject.analyze(&mut gpu, &options, asked, display).await?));
        }
        Ok::<_, Error>((found, beside))
    })?;
    for (other, record) in &beside {
        report::write(&dir.join(&other.folder), record)?;
    }
    match &found[..] {
        [first, second] => report::write_comparison(&dir, first, second)?,
        all => all.iter().try_for_each(|one| report::write(&dir, one))?,
    }
    for one in found.iter().chain(beside.iter().map(|(_, record)| record)) {
        if found.len() + beside.len() > 1 {
            super::print(&format!("{}:\n", plain(&one.target.name)))?;
        }
        super::print(&(report::terminal_table(one) + "\n"))?;
    }
    for (other, _) in &beside {
        super::print(&format!(
            "report on {}: {}\n",
            plain(&other.name),
            shown(&dir.join(&other.folder).join(report::PAGE))
        ))?;
    }
    if args.prune {
        let names = if found.len() > 1 { report::KEEPS.as_slice() } else { &[report::KEEP] };
        for name in names {
            super::print(&format!("experts to keep: {}\n", shown(&dir.join(name))))?;
        }
    }
    super::print(&format!("report: {}\n", shown(&dir.join(report::PAGE))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_shares_are_read_as_people_write_them() {
        assert_eq!(layers("0-3,7"), Ok(Layers(vec![0, 1, 2, 3, 7])));
        assert_eq!(layers("5,1-2,2"), Ok(Layers(vec![1, 2, 5])));
        for bad in ["", "3-1", "x", "1,,2", "0-999999999"] {
            assert!(layers(bad).unwrap_err().contains("0-3,7"), "{bad}");
        }
        assert_eq!((share("1%"), share("0.25"), values("all"), values("10%")), (Ok(0.01), Ok(0.25), Ok(1.0), Ok(0.1)));
        for bad in ["0", "0%", "101%", "NaN", "one"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
