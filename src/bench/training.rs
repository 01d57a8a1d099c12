//! Training steps: spectral decoupling on against off, its refresh alone, and the step of the `small` preset.

use std::cell::RefCell;
use std::rc::Rc;

use super::case::{Case, Group, Record};
use super::shapes::{d256, d1024, dense135m};
use crate::data::{Batch, Batches};
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, Gpu, GpuOptions};
use crate::nn::config::{GradientForm, ModelConfig, Preset, SpectralConfig};
use crate::optim::spectral::chosen_form;
use crate::tensor::Tensor;
use crate::train::config::{Recompute, RunConfig};
use crate::train::memory::MemoryReport;
use crate::train::trainer::Trainer;

/// The text that is trained on; only its length and its spread over the bytes matter.
const TEXT: &[u8] = include_bytes!("../train/trainer.rs");
/// Different batches that steps go through in turn.
const BATCHES: u64 = 8;

/// A trainer with its batches.
pub(super) struct Session {
    trainer: Trainer,
    batches: Vec<Vec<Batch>>,
    next: usize,
}

impl Session {
    pub(super) fn new(gpu: &Gpu, config: &RunConfig) -> Result<Self> {
        let text = TEXT.repeat(4);
        let train = &config.train;
        let sampler = Batches::new(&text, train.batch, train.seq, config.seed)?;
        let micro = |step| (0..train.accumulate).map(|i| sampler.batch(step, i)).collect();
        let batches = (1..=BATCHES).map(micro).collect();
        Ok(Self { trainer: Trainer::new(gpu, config)?, batches, next: 0 })
    }

    /// A step without a refresh, to its last figure.
    pub(super) fn step(&mut self) -> Result<()> {
        let every = self.trainer.config().spectral.refresh_every;
        if (self.trainer.step_number() + 1).is_multiple_of(every) {
            self.trainer.skip_step();
        }
        self.next = (self.next + 1) % self.batches.len();
        self.trainer.step(&self.batches[self.next])?;
        pollster::block_on(self.trainer.reports(true)).map(drop)
    }

    /// Records the refresh of all bases with the realignment.
    fn refresh(&self, clip: &Tensor) -> Result<()> {
        let config = self.trainer.config().spectral.resolved();
        let stacks = self.trainer.optimizer().banks().iter().flat_map(|bank| &bank.stacks);
        let step = self.trainer.step_number();
        stacks.into_iter().try_for_each(|stack| stack.refresh(&config, 1, step, clip))
    }
}

/// A session that several cases share, made when the first needs it.
#[derive(Clone)]
struct Shared(Rc<RefCell<Option<Session>>>, RunConfig);

impl Shared {
    fn new(config: RunConfig) -> Self {
        Self(Rc::default(), config)
    }

    fn make(&self, gpu: &Gpu) -> Result<()> {
        let mut session = self.0.borrow_mut();
        if session.is_none() {
            *session = Some(Session::new(gpu, &self.1)?);
        }
        Ok(())
    }

    /// A recorder of `run`.
    fn case(self, run: impl Fn(&mut Session) -> Result<()> + 'static) -> impl FnOnce(&Gpu) -> Result<Record> {
        move |gpu| {
            self.make(gpu)?;
            Ok(Box::new(move || self.0.borrow_mut().as_mut().map_or(Ok(()), &run)))
        }
    }
}

fn tokens(config: &RunConfig) -> usize {
    config.train.batch * config.train.seq * config.train.accumulate as usize
}

/// `spectral.step.{shape}`: default settings, with the form of the gradient split that the rule chooses, over the step
/// without decoupling; `.published`, and both forms; the refresh, one part in `refresh_every`, is averaged in.
/// `spectral.refresh.{shape}`: that part alone, over the same step. `spectral.off.{shape}`: the step without
/// decoupling.
fn comparison(shape: &str, config: &RunConfig, long: bool) -> Group {
    let off = format!("spectral.off.{shape}");
    let every = config.spectral.refresh_every as f64;
    let step = |name: String, config: RunConfig| {
        let count = tokens(&config);
        Case::new(name, Shared::new(config).case(Session::step)).tokens(count).long(long)
    };
    let mut plain = config.clone();
    plain.spectral.enabled = false;
    let mut group = vec![step(off.clone(), plain)];
    let chosen = format!("spectral.step.{shape}");
    for (suffix, form, published) in [
        ("", GradientForm::Auto, false),
        (".published", GradientForm::Auto, true),
        (".direct", GradientForm::Direct, false),
        (".token_space", GradientForm::TokenSpace, false),
    ] {
        let mut config = config.clone();
        config.spectral.gradient_form = form;
        config.spectral.as_published = published;
        let (name, count) = (format!("{chosen}{suffix}"), tokens(&config));
        let session = Shared::new(config.clone());
        let record = session.clone().case(Session::step);
        let refresh = format!("spectral.refresh.{shape}{}", if published { suffix } else { "" });
        let case = if form == GradientForm::Auto {
            Case::new(name, record)
        } else {
            let make = move |gpu: &Gpu| if rule(gpu, &config)? == form { Ok(None) } else { record(gpu).map(Some) };
            Case::or_same_as(name, &chosen, make)
        };
        group.push(case.tokens(count).against(&off, 1.0).with_share(&refresh, 1.0 / every).long(long));
        // Both forms refresh alike.
        if form == GradientForm::Auto {
            let make = move |gpu: &Gpu| {
                let clip = Tensor::from_f32(gpu, [4], &[0.0, 1.0, 0.0, 0.0])?;
                session.case(move |session| session.refresh(&clip))(gpu)
            };
            group.push(Case::new(refresh, make).against(&off, 1.0 / every).long(long));
        }
    }
    group
}

/// The form of the gradient split that the trainer takes by itself.
fn rule(gpu: &Gpu, config: &RunConfig) -> Result<GradientForm> {
    let ModelConfig { layers, d_model, moe, .. } = &config.model;
    let routed = (tokens(config) * moe.top_k) as f64 / moe.experts as f64;
    let spectral = SpectralConfig { gradient_form: GradientForm::Auto, ..config.spectral.resolved() };
    chosen_form(gpu, &spectral, [*layers, moe.experts, *d_model, moe.d_expert], routed)
}

/// `spectral.*`, a group for each shape.
pub(super) fn spectral() -> Vec<Group> {
    vec![
        comparison("d256", &d256(), false),
        comparison("d1024", &d1024(1), true),
        comparison("d1024.t8192", &d1024(4), true),
    ]
}

/// `step.*`: default settings, no refresh in it, keeping what backward reads and recomputing the experts' part of it, and a
/// dense model that other frameworks publish steps of;
/// and `startup.tiny`: from nothing to the first finished step, but for the start of the process and the driver's,
/// which has been loaded; `.pipeline_cache` with compiled pipelines kept from the run before, in a folder of its own.
pub(super) fn steps() -> Group {
    let mut group = Vec::new();
    for (shape, config, long) in [("d256", d256(), false), ("d1024", d1024(1), true)] {
        let name = format!("step.{shape}");
        let mut again = config.clone();
        again.train.recompute = Recompute::Experts;
        let recompute = format!("{name}.recompute");
        let case = |name: &str, config: &RunConfig| {
            let record = Shared::new(config.clone()).case(Session::step);
            Case::new(name, record).tokens(tokens(config)).memory_of(config.clone()).long(long)
        };
        group.push(case(&name, &config));
        group.push(case(&recompute, &again).against(&name, 1.0));
    }
    let dense = dense135m();
    let record = Shared::new(dense.clone()).case(Session::step);
    group.push(Case::new("step.dense135m", record).tokens(tokens(&dense)).long(true));
    group.push(Case::new("startup.tiny", |gpu| {
        let options = own_device(gpu);
        Ok(Box::new(move || startup(&options)))
    }));
    let cached = Case::new("startup.tiny.pipeline_cache", |gpu| {
        let folder = tempfile::tempdir().map_err(Error::io("creating", &std::env::temp_dir()))?;
        let options = own_device(gpu);
        Ok(Box::new(move || {
            let pipeline_cache = Some(folder.path().to_owned());
            startup(&options.clone().pipeline_cache(pipeline_cache))
        }))
    });
    group.push(cached.against("startup.tiny", 1.0));
    group
}

/// From opening the device to the first finished step of `tiny`.
fn startup(options: &GpuOptions) -> Result<()> {
    let gpu = pollster::block_on(Gpu::open(options))?;
    Session::new(&gpu, &RunConfig::preset(Preset::Tiny))?.step()
}

/// Opens the adapter of `gpu` again, with its kernels.
fn own_device(gpu: &Gpu) -> GpuOptions {
    let adapter = AdapterChoice::Index(gpu.adapter().index);
    GpuOptions::default().adapter(adapter).tier(gpu.tier()).max_binding_bytes(gpu.max_binding_bytes())
}

/// Where the memory of a step of `config` is, a refresh included, on a device of its own.
pub(super) fn memory(gpu: &Gpu, config: &RunConfig) -> Result<MemoryReport> {
    let gpu = pollster::block_on(Gpu::open(&own_device(gpu)))?;
    let mut config = config.clone();
    config.spectral.refresh_every = 2;
    let mut session = Session::new(&gpu, &config)?;
    for batches in &session.batches[..2] {
        session.trainer.step(batches)?;
        pollster::block_on(session.trainer.reports(true))?;
    }
    session.trainer.memory()
}
