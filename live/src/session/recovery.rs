//! Going on after a lost device: when the models are kept on the host, and how often another device is tried.

use std::time::Duration;

use sdmoe::{Gpu, Snapshot, Trainer};
use web_time::Instant;

use crate::platform;

/// Steps between two snapshots at least.
pub(super) const STEPS: u64 = 10;
/// A snapshot waits until this many times its duration have gone by.
const PATIENCE: f64 = 20.0;
/// Losses of a device without a step further than before: with the next one the run ends, as a kernel that hangs does so
/// again.
const LOSSES: u32 = 2;
/// With the second opening that fails within this time the run ends.
const FAILURES_WITHIN: Duration = Duration::from_mins(1);
/// The time from a failed opening to the next: a driver takes a while to come back.
const REST: Duration = Duration::from_secs(1);

/// Opens a device in place of a lost one; it may wait for it, but not for ever.
pub type Reopen = Box<dyn FnMut() -> Result<Gpu, String> + Send>;

/// Both models on the host, from which they go on.
#[derive(Default)]
pub(super) struct Kept {
    snapshots: Option<[Snapshot; 2]>,
    last: Option<(u64, Instant, Duration)>,
}

impl Kept {
    /// Steps of the models that are kept; at 0 they are made anew.
    pub(super) fn step(&self) -> u64 {
        self.snapshots.as_ref().map_or(0, |[on, _]| on.step)
    }

    /// Whether a snapshot is due after `step` steps.
    pub(super) fn is_due(&self, step: u64) -> bool {
        let rested = |(_, at, took): &(u64, Instant, Duration)| at.elapsed() >= took.mul_f64(PATIENCE);
        step >= self.last.map_or(0, |(last, ..)| last) + STEPS && self.last.as_ref().is_none_or(rested)
    }

    /// Takes both models to the host.
    pub(super) async fn keep(&mut self, trainers: &[Trainer; 2]) -> sdmoe::Result<()> {
        let begun = Instant::now();
        self.snapshots = Some([trainers[0].snapshot().await?, trainers[1].snapshot().await?]);
        self.last = Some((trainers[0].step_number(), Instant::now(), begun.elapsed()));
        Ok(())
    }

    /// Both models as they were kept, if they were.
    pub(super) fn restore(&self, gpu: &Gpu) -> sdmoe::Result<Option<[Trainer; 2]>> {
        let Some([on, off]) = &self.snapshots else { return Ok(None) };
        Ok(Some([Trainer::from_snapshot(gpu, on)?, Trainer::from_snapshot(gpu, off)?]))
    }
}

/// The losses and failures so far: a run goes on a few times, not for ever.
#[derive(Default)]
pub(super) struct Recovery {
    /// The furthest step at which a device was lost, and how often without getting further.
    furthest: (u64, u32),
    /// When an opening failed last.
    failed: Option<Instant>,
}

impl Recovery {
    /// A device was lost after `step` steps.
    ///
    /// # Errors
    /// The reason why another would not help.
    pub(super) fn lost(&mut self, step: u64) -> Result<(), String> {
        let (furthest, times) = self.furthest;
        self.furthest = if step > furthest { (step, 1) } else { (furthest, times + 1) };
        let (furthest, times) = self.furthest;
        if times <= LOSSES {
            return Ok(());
        }
        Err(format!("it was lost {times} times, and training came no further than step {furthest}"))
    }

    /// Opens another device; a second time where that fails.
    ///
    /// # Errors
    /// The reason of the last failure.
    pub(super) async fn open(&mut self, reopen: &mut Reopen) -> Result<Gpu, String> {
        // Also where an opening takes more than the minute to fail.
        let mut again = false;
        loop {
            let error = match reopen() {
                Ok(gpu) => {
                    self.failed = None;
                    return Ok(gpu);
                }
                Err(error) => error,
            };
            log::warn!("opening another device: {error}");
            let before = self.failed.replace(Instant::now());
            if again || before.is_some_and(|at| at.elapsed() < FAILURES_WITHIN) {
                return Err(format!("opening another failed twice: {error}"));
            }
            again = true;
            platform::pause(REST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, OnceLock};

    use super::*;
    use crate::session::{Command, Shared, Status, session};
    use crate::settings::Settings;
    use crate::texts;

    #[test]
    fn losses_are_borne_while_training_gets_further() {
        let mut recovery = Recovery::default();
        for step in [0, 0, 7, 5, 9, 30] {
            recovery.lost(step).unwrap();
        }
        recovery.lost(30).unwrap();
        assert_eq!(recovery.lost(29).unwrap_err(), "it was lost 3 times, and training came no further than step 30");
    }

    #[test]
    fn an_opening_is_tried_twice() {
        let mut recovery = Recovery::default();
        let mut tried = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = tried.clone();
        let mut reopen: Reopen = Box::new(move || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Err("no adapter".to_owned())
        });
        let error = pollster::block_on(recovery.open(&mut reopen)).unwrap_err();
        assert_eq!(error, "opening another failed twice: no adapter");
        // Soon after that once is enough.
        assert!(pollster::block_on(recovery.open(&mut reopen)).is_err());
        drop(reopen);
        assert_eq!(Arc::get_mut(&mut tried).map(|n| *n.get_mut()), Some(3));
    }

    fn open() -> Gpu {
        pollster::block_on(Gpu::open(&sdmoe::GpuOptions::default())).unwrap()
    }

    #[test]
    fn a_session_goes_on_after_a_lost_device_as_if_nothing_had_been() {
        /// Steps after which the device is destroyed, behind the first snapshot, and those of the run.
        const ACCIDENTS: [usize; 2] = [3, 12];
        const STEPS: u64 = 13;
        let run = |accidents: &'static [usize]| {
            let sources = texts::inside();
            let devices = Arc::new(Mutex::new(vec![open()]));
            let state = Arc::new(OnceLock::<Shared>::new());
            let (of_news, seen) = (devices.clone(), state.clone());
            let due = Mutex::new(accidents.to_vec());
            let news = move || {
                let Some(state) = seen.get() else { return };
                let mut due = due.lock().unwrap();
                if due.first().is_some_and(|&step| state.lock().steps() == step as u64) {
                    due.remove(0);
                    of_news.lock().unwrap().last().unwrap().device().destroy();
                }
            };
            let gpu = devices.lock().unwrap()[0].clone();
            let (handle, session) = session(gpu, Settings::default(), sources.clone(), news);
            state.set(handle.state.clone()).unwrap();
            let opened = devices.clone();
            let session = session.limited_to(STEPS).reopening(Box::new(move || {
                let gpu = open();
                opened.lock().unwrap().push(gpu.clone());
                Ok(gpu)
            }));
            pollster::block_on(session.run(sources));
            let count = devices.lock().unwrap().len();
            (handle.state, count)
        };
        let ((plain, one), (state, three)) = (run(&[]), run(&ACCIDENTS));
        let (plain, state) = (plain.lock(), state.lock());
        assert_eq!((one, three), (1, 3));
        assert_eq!(state.status, Status::Running);
        assert_eq!((plain.steps(), &plain.losses), (STEPS, &state.losses));
        assert_eq!(plain.notice, "");
        assert_eq!(state.notice, "The device was lost at step 12; training went on from step 10 on a fresh one.");
        // In order, each once.
        assert!(state.looks.windows(2).all(|two| two[0].step < two[1].step));
        assert_eq!(state.looks.last().unwrap().step, STEPS);
    }

    #[test]
    fn a_session_whose_device_cannot_be_had_again_says_so_and_ends() {
        let run = |reopen: Option<Reopen>| {
            let gpu = open();
            gpu.device().destroy();
            let sources = texts::inside();
            let (handle, session) = session(gpu, Settings::default(), sources.clone(), || ());
            let session = match reopen {
                Some(reopen) => session.reopening(reopen),
                None => session,
            };
            // It waits for another wish when it has failed.
            handle.send(Command::Stop);
            pollster::block_on(session.limited_to(2).run(sources));
            let Status::Failed(message) = handle.state.lock().status.clone() else { panic!("expected a failure") };
            assert!(message.starts_with("GPU device lost: "), "{message}");
            message
        };
        assert!(!run(None).contains(';'));
        let refused = run(Some(Box::new(|| Err("the driver is away".to_owned()))));
        assert!(refused.ends_with("; opening another failed twice: the driver is away"), "{refused}");
        let gone = run(Some(Box::new(|| {
            let gpu = open();
            gpu.device().destroy();
            Ok(gpu)
        })));
        assert!(gone.ends_with("; it was lost 3 times, and training came no further than step 0"), "{gone}");
    }
}
