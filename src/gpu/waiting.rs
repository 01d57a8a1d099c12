//! Waiting for the device: who polls it, and the handing over of what is held back.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use super::pace::{Budget, Next, Pacing};
use super::progress::Compiling;
use super::wakers::Wakers;
use super::{Gpu, Inner, lock};
use crate::error::Result;

/// How long a wait on a device that others use sleeps between two looks. A wait within `Device::poll` would keep others from
/// presenting a surface until it ends, and one with a timeout panics where another thread polls (wgpu 30.0.1: the other one may
/// find the queue empty between this one's look at the fence and its look at the queue).
const NAP: Duration = Duration::from_micros(200);
/// How long a pause sleeps before it is looked whether the budget is still the same.
const LONGEST_NAP: Duration = Duration::from_millis(10);

/// Who moves the device along while something is awaited: a readback, or the end of a step.
///
/// In a browser its event loop does, and this setting has no meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Polling {
    /// Whoever awaits: polling the future waits. On a device of [`Gpu::open`] it waits for the device; on an application's own it
    /// looks at the device, sleeps for a fraction of a millisecond and has itself polled again, so that it keeps nobody from
    /// submitting or presenting. Right for a thread that trains, and for any program that does not poll.
    #[default]
    Library,
    /// The program: it calls [`Gpu::poll`] regularly, as in its frame loop, or has it called by [`Gpu::poll_in_thread`].
    /// Polling a future then never waits; where nobody calls it, nothing that is awaited arrives.
    Host,
}

/// What is recorded is held back until this is dropped.
pub(crate) struct Hold(Gpu);

impl Drop for Hold {
    fn drop(&mut self) {
        let Inner { device, queue, pool, state, .. } = &*self.0.0;
        let mut state = lock(state);
        state.holds -= 1;
        // Whoever gave up waiting leaves work that somebody else may wait for.
        if !state.holds() {
            state.flush(device, queue, pool);
        }
    }
}

impl Gpu {
    /// Bounds by time what reaches the queue, or with None no longer does: for a device that something else draws with.
    ///
    /// With a budget, what is recorded waits, and goes to the queue in pieces, each when the one before is done, while somebody
    /// records more, awaits a result ([`Trainer::reports`](crate::Trainer::reports), [`Gpu::finish`], any readback) or calls
    /// [`Gpu::poll`]. A readback that nobody awaits therefore does not arrive by itself. Results are the same to the bit. How long
    /// pieces take is measured, by timestamps if the device has them (feature `TIMESTAMP_QUERY`); [`Gpu::pacing`] says how it
    /// went. A first step runs in many small pieces, until the times are known.
    ///
    /// What was recorded before goes to the queue at once. The setting holds for all handles of the device, from any thread.
    pub fn set_budget(&self, budget: impl Into<Option<Budget>>) {
        let mut state = lock(&self.0.state);
        state.flush(&self.0.device, &self.0.queue, &self.0.pool);
        state.pacer.set(budget.into());
    }

    /// The submissions since [`Gpu::set_budget`], as far as they are known to be done.
    pub fn pacing(&self) -> Pacing {
        let mut state = lock(&self.0.state);
        state.pacer.collect(&self.0.queue);
        state.pacer.report()
    }

    /// Says who polls the device; at first [`Polling::Library`].
    pub fn set_polling(&self, polling: Polling) {
        let wakers = self.wakers();
        wakers.host_polls.store(polling == Polling::Host, Ordering::Relaxed);
        // Who waits finds out who polls from now on.
        wakers.wake();
    }

    /// Looks at the device once, without waiting: results that have arrived wake those who await them, and with a budget the
    /// next piece goes to the queue if its turn has come.
    ///
    /// # Errors
    /// [`crate::Error::Device`], [`crate::Error::DeviceLost`].
    pub fn poll(&self) -> Result<()> {
        let polled = self.0.failures.poll(&self.0.device, wgpu::PollType::Poll).and_then(|()| self.advance());
        if polled.is_err() {
            // A device that is gone tells nobody who waits.
            self.wakers().wake();
        }
        polled.map(drop)
    }

    pub(super) fn wakers(&self) -> Arc<Wakers> {
        lock(&self.0.state).wakers.clone()
    }

    /// Hands over the next piece of what is held back, if its turn has come.
    fn advance(&self) -> Result<Next> {
        let next = lock(&self.0.state).advance(&self.0.device, &self.0.queue, &self.0.pool);
        self.check().map(|()| next)
    }

    /// A part of waiting for a submission, or for one that is still to come: afterwards the task is woken when there is news, or
    /// at once.
    pub(super) fn wait_for(&self, submission: Option<wgpu::SubmissionIndex>, context: &mut Context<'_>) -> Result<()> {
        let wakers = self.wakers();
        wakers.add(context.waker());
        let next = match (self.advance()?, submission) {
            (_, Some(index)) => Next::Device(index),
            (next, None) => next,
        };
        if wakers.host_polls() {
            // What this task waits for may have come before it was known to wait.
            if matches!(next, Next::Nothing) {
                context.waker().wake_by_ref();
            }
            return Ok(());
        }
        match next {
            Next::Device(_) if lock(&self.0.state).shared => {
                self.0.failures.poll(&self.0.device, wgpu::PollType::Poll)?;
                // What has arrived has woken this task already.
                if wakers.waits(context.waker()) {
                    std::thread::sleep(NAP);
                }
            }
            Next::Device(index) => {
                let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
                self.0.failures.poll(&self.0.device, wait)?;
            }
            Next::Pause(rest) => std::thread::sleep(rest.min(LONGEST_NAP)),
            Next::Nothing => {}
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    /// Holds back what is recorded from now on.
    pub(crate) fn hold(&self) -> Hold {
        lock(&self.0.state).holds += 1;
        Hold(self.clone())
    }

    /// Hands over all that is held back, piece by piece, and resolves when the device is done; `progress` is called whenever more
    /// of the kernels have run, those left out that had run `before` ([`Gpu::compilation`]).
    ///
    /// # Errors
    /// [`crate::Error::Device`], [`crate::Error::DeviceLost`].
    pub(crate) async fn hand_over(&self, before: u64, mut progress: impl FnMut(Compiling)) -> Result<()> {
        let mut last = None;
        poll_fn(|context| {
            let finished = matches!(self.advance()?, Next::Nothing);
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let (done, begun) = (read(&self.0.compilation.done), read(&self.0.compilation.begun));
            let compiling = Compiling { done: done - before, total: begun - before };
            if last.replace(compiling) != Some(compiling) {
                progress(compiling);
            }
            if finished {
                return Poll::Ready(Ok(()));
            }
            self.wait_for(None, context)?;
            Poll::Pending
        })
        .await
    }
}
