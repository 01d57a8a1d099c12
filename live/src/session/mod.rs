//! Two trainers from one seed on the same batches, in lock step, with decoupling and without; the looks at them; and what
//! the window asks for meanwhile. Nothing here knows of windows.

pub mod look;
mod mixture;
mod pace;
pub mod recovery;
mod state;
pub mod trial;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use sdmoe::gpu::{Budget, Compiling};
use sdmoe::linalg::random::uniform;
use sdmoe::nn::generate::Generator;
use sdmoe::nn::sample::Sampling;
use sdmoe::{Batch, ErrorKind, Gpu, Trainer};
use web_time::Instant;

use self::look::{Readings, look};
use self::mixture::Mixture;
use self::pace::{Looking, Rate};
use self::recovery::{Kept, Recovery, Reopen};
pub use self::state::{Looks, Sample, Shared, State, Status};
use self::trial::{Expert, Kind, try_out};
use crate::platform;
use crate::settings::{SEQ, Settings};
use crate::texts::Source;

/// Looks that are kept; past them every second one is dropped.
const LOOKS: usize = 400;
/// The longest pause of a page at a time.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Bytes that a sample goes on from.
const PROMPT: usize = 24;
/// Bytes of a sample.
const SAMPLE: usize = 72;

/// A wish of the window.
#[derive(Clone, Debug)]
pub enum Command {
    /// Stand still, or go on.
    Pause(bool),
    /// One step, standing still.
    Step,
    /// Begin again, with other settings or texts.
    Restart(Settings, Vec<Source>),
    /// Another weight of the load-balance loss.
    Balance(f32),
    /// The share of the time that training takes, in (0, 1].
    Share(f32),
    /// Try something in this run, with the decoupled model or the plain one.
    Try(u64, Kind, bool, Expert),
    /// End.
    Stop,
}

/// A session's handle in the window.
pub struct Handle {
    /// Its findings.
    pub state: Shared,
    commands: Sender<Command>,
}

impl Handle {
    /// Asks for something; a session that has ended does nothing.
    pub fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// Makes a session; [`Session::run`] has then to be run somewhere.
pub fn session(
    gpu: Gpu,
    settings: Settings,
    sources: Vec<Source>,
    news: impl Fn() + 'static + Send,
) -> (Handle, Session) {
    let shared = Shared::new(State::new(&settings, &sources));
    let (sender, commands) = channel();
    let handle = Handle { state: shared.clone(), commands: sender };
    let session = Session {
        gpu,
        commands,
        shared,
        news: Box::new(news),
        paused: false,
        single: false,
        share: 1.0,
        limit: None,
        reopen: None,
        kept: Kept::default(),
        recovery: Recovery::default(),
    };
    (handle, session)
}

/// Two trainers and what is measured of them.
pub struct Session {
    gpu: Gpu,
    commands: Receiver<Command>,
    shared: Shared,
    /// Tells the window that there is something new.
    news: Box<dyn Fn() + Send>,
    paused: bool,
    /// One step is wanted, standing still.
    single: bool,
    share: f32,
    limit: Option<u64>,
    /// Gives another device where this one is lost.
    reopen: Option<Reopen>,
    kept: Kept,
    recovery: Recovery,
}

/// Why a run ends.
enum Ended {
    Stop,
    /// The device is gone.
    Lost(String),
    Restart(Settings, Vec<Source>),
    Failed(String),
}

impl Session {
    /// Ends after so many steps, with a look at the last.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn limited_to(self, steps: u64) -> Self {
        Self { limit: Some(steps), ..self }
    }

    /// Goes on after a lost device, on another.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn reopening(self, reopen: Reopen) -> Self {
        Self { reopen: Some(reopen), ..self }
    }

    /// Trains until it is told to stop.
    pub async fn run(mut self, mut sources: Vec<Source>) {
        let mut settings = self.shared.lock().settings.clone();
        loop {
            let ended = match self.train(&settings, &sources).await {
                Ended::Lost(error) => match self.go_on(&error).await {
                    Ok(()) => continue,
                    Err(message) => Ended::Failed(message),
                },
                ended => ended,
            };
            match ended {
                Ended::Stop => return,
                Ended::Restart(new, texts) => {
                    (settings, sources) = (new, texts);
                    self.begin(&settings, &sources);
                }
                Ended::Lost(message) | Ended::Failed(message) => {
                    log::error!("{message}");
                    self.tell(Status::Failed(message));
                    // Other settings may do.
                    match self.wait_for_restart().await {
                        Some((new, texts)) => {
                            (settings, sources) = (new, texts);
                            self.begin(&settings, &sources);
                        }
                        None => return,
                    }
                }
            }
        }
    }

    /// Forgets the run before.
    fn begin(&mut self, settings: &Settings, sources: &[Source]) {
        (self.paused, self.single) = (false, false);
        (self.kept, self.recovery) = (Kept::default(), Recovery::default());
        let mut state = self.shared.lock();
        let number = state.number + 1;
        *state = State { number, ..State::new(settings, sources) };
    }

    async fn wait_for_restart(&mut self) -> Option<(Settings, Vec<Source>)> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Restart(settings, sources)) => return Some((settings, sources)),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return None,
                Ok(Command::Share(share)) => self.share = share,
                Ok(_) => (),
                Err(TryRecvError::Empty) => platform::pause(Duration::from_millis(50)).await,
            }
        }
    }

    fn tell(&self, status: Status) {
        self.shared.lock().status = status;
        (self.news)();
    }

    /// Another device in place of the lost one; the models then go on from where they were kept.
    ///
    /// # Errors
    /// A message for the user where that cannot be.
    async fn go_on(&mut self, error: &str) -> Result<(), String> {
        let step = self.shared.lock().steps();
        let Some(reopen) = &mut self.reopen else { return Err(error.to_owned()) };
        log::warn!("{error}");
        self.shared.lock().status = Status::Lost;
        (self.news)();
        self.recovery.lost(step).map_err(|reason| format!("{error}; {reason}"))?;
        self.gpu = self.recovery.open(reopen).await.map_err(|reason| format!("{error}; {reason}"))?;
        let from = self.kept.step();
        let from = if from > 0 { format!("from step {from}") } else { "from the beginning".to_owned() };
        let notice = format!("The device was lost at step {step}; training went on {from} on a fresh one.");
        log::info!("{notice}");
        let mut state = self.shared.lock();
        state.back_to(self.kept.step());
        state.notice = notice;
        Ok(())
    }

    async fn train(&mut self, settings: &Settings, sources: &[Source]) -> Ended {
        match self.try_train(settings, sources).await {
            Ok(ended) => ended,
            Err(error) => {
                // A loss explains whatever else went wrong; a readback that was under way may end otherwise, and only what is
                // submitted next finds it.
                if !cfg!(target_arch = "wasm32") {
                    let _ = self.gpu.finish().await;
                }
                let error = self.gpu.check().err().filter(|e| e.kind() == ErrorKind::DeviceLost).unwrap_or(error);
                let lost = error.kind() == ErrorKind::DeviceLost;
                if lost { Ended::Lost(error.to_string()) } else { Ended::Failed(error.to_string()) }
            }
        }
    }

    async fn try_train(&mut self, settings: &Settings, sources: &[Source]) -> sdmoe::Result<Ended> {
        let begun = Instant::now();
        self.tell(if self.paused { Status::Paused } else { Status::Compiling(0, 0) });
        self.keep_to_budget();
        let readings = Arc::new(Readings::new(sources));
        let mut trainers = match self.kept.restore(&self.gpu)? {
            Some(trainers) => trainers,
            None => [Trainer::new(&self.gpu, &settings.run(true))?, Trainer::new(&self.gpu, &settings.run(false))?],
        };
        // It may have been moved since the models were kept.
        let balance = self.shared.lock().settings.balance_loss;
        for trainer in &mut trainers {
            trainer.set_balance_loss(balance)?;
        }
        let batches = Mixture::new(sources, settings.seed)?;
        let (mut rate, mut looking) = (Rate::new(), Looking::default());
        loop {
            if let Some(ended) = self.obey(&mut trainers, &readings).await? {
                return Ok(ended);
            }
            let step = trainers[0].step_number() + 1;
            let at_limit = self.limit.is_some_and(|limit| step > limit);
            let [due, whole] = looking.due(step - 1, at_limit);
            if due {
                let begun = Instant::now();
                self.look(&trainers, &readings, whole).await?;
                looking.done(step - 1, whole);
                rate.leave_out(begun.elapsed());
            }
            if at_limit {
                return Ok(Ended::Stop);
            }
            if self.reopen.is_some() && self.kept.is_due(step - 1) {
                let begun = Instant::now();
                self.kept.keep(&trainers).await?;
                rate.leave_out(begun.elapsed());
            }
            if self.paused && !self.single {
                rate.skip();
                platform::pause(Duration::from_millis(30)).await;
                continue;
            }
            self.single = false;
            let started = Instant::now();
            let batch = batches.batch(step);
            for (i, trainer) in trainers.iter_mut().enumerate() {
                self.step(trainer, std::slice::from_ref(&batch)).await?;
                for report in trainer.reports(true).await? {
                    self.shared.lock().losses[i].push(report.loss);
                }
            }
            let took = started.elapsed();
            rate.add();
            let busy = if cfg!(target_arch = "wasm32") { self.share } else { self.gpu.pacing().share() };
            {
                let mut state = self.shared.lock();
                state.first_loss.get_or_insert(begun.elapsed().as_secs_f64());
                (state.tokens_per_second, state.busy) = (rate.last, f64::from(busy));
                state.status = if self.paused { Status::Paused } else { Status::Running };
            }
            (self.news)();
            // In a browser nothing wakes a queue that is left alone: the page has its turn between steps.
            if cfg!(target_arch = "wasm32") {
                let rest = took.mul_f32(1.0 / self.share.clamp(0.05, 1.0) - 1.0);
                let rested = Instant::now();
                loop {
                    platform::pause(rest.saturating_sub(rested.elapsed()).min(LONGEST_PAUSE)).await;
                    if rested.elapsed() >= rest {
                        break;
                    }
                }
            }
        }
    }

    /// Bounds what the device works at a time, so that the window is drawn in between.
    fn keep_to_budget(&self) {
        if !cfg!(target_arch = "wasm32") {
            // A software driver draws a frame four times a second.
            let millis = if self.gpu.adapter().is_software() { 40 } else { 8 };
            self.gpu.set_budget(Budget::new(Duration::from_millis(millis)).share(self.share));
        }
    }

    /// One step; the first two say how far their kernels are.
    async fn step(&self, trainer: &mut Trainer, batches: &[Batch]) -> sdmoe::Result<()> {
        if cfg!(target_arch = "wasm32") || trainer.step_number() >= 2 {
            return trainer.step(batches);
        }
        let progress = |compiling: Compiling| self.tell(Status::Compiling(compiling.done, compiling.total));
        trainer.warm_up_step(batches, progress).await
    }

    /// Does what the window asks for; returns how the run ends, if it does.
    async fn obey(&mut self, trainers: &mut [Trainer; 2], readings: &Readings) -> sdmoe::Result<Option<Ended>> {
        loop {
            match self.commands.try_recv() {
                Err(TryRecvError::Empty) => return Ok(None),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(Some(Ended::Stop)),
                Ok(Command::Restart(settings, sources)) => return Ok(Some(Ended::Restart(settings, sources))),
                Ok(Command::Pause(paused)) => {
                    self.paused = paused;
                    self.tell(if paused { Status::Paused } else { Status::Running });
                }
                Ok(Command::Step) => self.single = true,
                Ok(Command::Share(share)) => {
                    self.share = share;
                    self.keep_to_budget();
                }
                Ok(Command::Balance(weight)) => {
                    for trainer in &mut *trainers {
                        trainer.set_balance_loss(weight)?;
                    }
                    self.shared.lock().settings.balance_loss = weight;
                }
                // What was asked of an earlier run has no meaning in this one.
                Ok(Command::Try(run, ..)) if run != self.shared.lock().number => (),
                Ok(Command::Try(_, kind, decoupled, expert)) => {
                    let trainer = &trainers[usize::from(!decoupled)];
                    let outcome = try_out(trainer, readings, (kind, decoupled), expert).await;
                    self.gpu.check()?;
                    let mut state = self.shared.lock();
                    match outcome {
                        Ok(outcome) => {
                            state.outcomes.push(outcome);
                            state.message.clear();
                        }
                        Err(error) => state.message = error.to_string(),
                    }
                    drop(state);
                    (self.news)();
                }
            }
        }
    }

    /// Looks at both models: at the weights, too, and at what they write, if the `whole` look is wanted.
    async fn look(&self, trainers: &[Trainer; 2], readings: &Readings, whole: bool) -> sdmoe::Result<()> {
        let step = trainers[0].step_number();
        let before = self.shared.lock().looks.last().filter(|_| !whole).cloned();
        let kept = |i: usize| {
            let last = || before.as_ref().map_or_else(Default::default, |looks| looks.of[i].weights.clone());
            (!whole).then(last)
        };
        let of = [look(&trainers[0], readings, kept(0)).await?, look(&trainers[1], readings, kept(1)).await?];
        {
            let mut state = self.shared.lock();
            if state.looks.len() >= LOOKS {
                // From the newest on, which stays.
                let mut i = state.looks.len();
                state.looks.retain(|_| {
                    i -= 1;
                    i.is_multiple_of(2)
                });
            }
            state.looks.push(Arc::new(Looks { step, of }));
        }
        (self.news)();
        if whole {
            // The second text's words, where there is one.
            let from = if readings.names.len() > 1 { SEQ } else { 0 };
            let prompt = &readings.probe[from..from + PROMPT];
            let text = [write(&self.gpu, &trainers[0], prompt).await?, write(&self.gpu, &trainers[1], prompt).await?];
            self.shared.lock().samples.push(Sample { step, prompt: prompt.to_vec(), text });
            (self.news)();
        }
        Ok(())
    }
}

/// Goes on from `prompt`; the same draws at every step, so that what changes is the model.
async fn write(gpu: &Gpu, trainer: &Trainer, prompt: &[u8]) -> sdmoe::Result<Vec<u8>> {
    let prompt: Vec<u32> = prompt.iter().map(|&b| u32::from(b)).collect();
    let mut generator = Generator::new(gpu, trainer.model(), &prompt, SEQ * 2)?;
    let sampling = Sampling::default().temperature(0.7);
    for i in 0..SAMPLE {
        generator.next(&sampling, f64::from(uniform(11, 0, i as u32))).await?;
    }
    Ok(generator.text()[prompt.len()..].iter().map(|&t| t as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts;

    #[test]
    fn a_session_trains_both_models_looks_at_them_and_tries_what_is_asked() {
        let gpu = pollster::block_on(Gpu::open(&sdmoe::GpuOptions::default())).unwrap();
        let run = || {
            let sources = texts::inside();
            let (handle, session) = session(gpu.clone(), Settings::default(), sources.clone(), || ());
            handle.send(Command::Try(0, Kind::Off, true, Expert { layer: 0, number: 3 }));
            handle.send(Command::Try(0, Kind::Merge, false, Expert { layer: 1, number: 2 }));
            // Neither of another run, nor of a layer that is not there.
            handle.send(Command::Try(5, Kind::Off, true, Expert { layer: 0, number: 3 }));
            handle.send(Command::Try(0, Kind::Off, true, Expert { layer: 7, number: 3 }));
            handle.send(Command::Balance(0.02));
            pollster::block_on(session.limited_to(9).run(sources));
            handle.state
        };
        let state = run();
        let state = state.lock();
        assert_eq!(state.status, Status::Running);
        let [on, off] = &state.losses;
        assert_eq!((on.len(), off.len(), state.settings.balance_loss), (9, 9, 0.02));
        assert!(on.iter().chain(off).all(|x| (4.0..7.0).contains(x)) && on != off, "{on:?} {off:?}");
        let last = state.looks.last().unwrap();
        assert_eq!(last.step, 9);
        for (look, decoupled) in last.of.iter().zip([true, false]) {
            assert_eq!((look.probe.len(), look.probe[0].top.len(), look.guesses.len()), (2, 3 * SEQ, 3 * SEQ));
            assert!(look.probe[1].scores.chunks(8).all(|s| (s.iter().sum::<f32>() - 1.0).abs() < 1e-4));
            assert_eq!(look.counts.iter().map(|c| c.iter().sum::<u32>()).collect::<Vec<_>>(), [2 * 512; 2]);
            assert!(look.by_source.iter().flat_map(|l| &l.shares).all(|s| (s.iter().sum::<f64>() - 1.0).abs() < 1e-9));
            // Two layers, three matrices, two sides.
            assert_eq!(look.weights.similarity.len(), 12);
            assert!(look.weights.similarity.iter().all(|s| s.unique.is_some() == decoupled));
            assert_eq!(look.weights.spectra.len(), if decoupled { 6 } else { 0 });
        }
        assert_eq!(state.samples[0].text[0].len(), SAMPLE);
        assert!(state.message.contains("layer") && state.message.contains('7'), "{}", state.message);
        let [without, merged] = state.outcomes.as_slice() else { panic!("{:?}", state.outcomes) };
        assert!(without.partner.is_none() && without.after.is_finite() && without.random.is_some_and(|r| r.0 != 3));
        assert!(
            merged.partner.is_some_and(|(other, x)| other != 2 && x.abs() <= 1.0)
                && merged.random.is_some_and(|r| r.0 != 2 && Some(r.0) != merged.partner.map(|p| p.0))
        );
        // A trial leaves no trace: the losses are those of a run without one.
        let plain = {
            let sources = texts::inside();
            let (handle, session) = session(gpu.clone(), Settings::default(), sources.clone(), || ());
            handle.send(Command::Balance(0.02));
            pollster::block_on(session.limited_to(2).run(sources));
            handle.state
        };
        let plain = plain.lock();
        assert_eq!([&plain.losses[0][..], &plain.losses[1][..]], [&on[..2], &off[..2]]);
    }
}
