//! Who moves the device along while a result is awaited: whoever awaits, the program, or a thread.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::common::training::{config, micro_batches, snapshot, train, trainer};
use crate::common::{lent_gpu, own_gpu as gpu};
use pollster::block_on;
use sdmoe::Tensor;
use sdmoe::gpu::{Budget, Gpu, Polling};

/// Counts how often a task is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn tensor(gpu: &Gpu) -> Tensor {
    Tensor::from_f32(gpu, [4], &[1.0, 2.0, 3.0, 4.0]).unwrap()
}

#[test]
fn where_the_program_polls_a_future_neither_waits_nor_arrives_without_it() {
    let gpu = gpu();
    gpu.set_polling(Polling::Host);
    let x = tensor(&gpu);
    for budget in [None, Some(Budget::new(Duration::from_millis(4)).share(0.5))] {
        gpu.set_budget(budget);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let mut reading = pin!(x.to_f32());
        assert!(reading.as_mut().poll(&mut context).is_pending());
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        let began = Instant::now();
        let bytes = loop {
            gpu.poll().unwrap();
            if woken.0.swap(0, Ordering::Relaxed) > 0
                && let Poll::Ready(bytes) = reading.as_mut().poll(&mut context)
            {
                break bytes.unwrap();
            }
            assert!(began.elapsed() < Duration::from_secs(20), "nobody was woken");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(bytes, [1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn a_frame_loop_that_polls_moves_along_what_a_worker_trains() {
    let gpu = gpu();
    gpu.set_polling(Polling::Host);
    gpu.set_budget(Budget::new(Duration::from_millis(4)));
    let worker = {
        let gpu = gpu.clone();
        std::thread::spawn(move || train(&mut trainer(&gpu, &config()), 3).len())
    };
    let began = Instant::now();
    while !worker.is_finished() {
        gpu.poll().unwrap();
        assert!(began.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(worker.join().unwrap(), 3);
}

#[test]
fn where_nobody_polls_a_future_waits_a_little_at_a_time_and_has_itself_polled_again() {
    let gpu = gpu();
    let x = tensor(&gpu);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut reading = pin!(x.to_f32());
    let mut polls = 0;
    while reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        polls += 1;
        assert!(woken.0.load(Ordering::Relaxed) >= polls);
    }
}

#[test]
fn a_thread_polls_until_its_guard_is_dropped() {
    let gpu = lent_gpu();
    let x = tensor(&gpu);
    for budget in [None, Some(Budget::new(Duration::from_millis(4)).share(0.5))] {
        gpu.set_budget(budget);
        let polling = gpu.poll_in_thread().unwrap();
        assert_eq!(block_on(x.to_f32()).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(train(&mut trainer(&gpu, &config()), 2).len(), 2);
        drop(polling);
        assert_eq!(block_on(x.to_f32()).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn a_step_says_how_far_its_kernels_are_and_gives_the_same_bits() {
    let settings = config();
    let plain = {
        let gpu = lent_gpu();
        let mut trainer = trainer(&gpu, &settings);
        train(&mut trainer, 3);
        snapshot(&trainer)
    };
    let gpu = gpu();
    let mut trainer = trainer(&gpu, &settings);
    let mut told = Vec::new();
    block_on(trainer.warm_up_step(&micro_batches(&settings, 1), |compiling| told.push(compiling))).unwrap();
    assert!(told.len() > 3 && told.is_sorted_by_key(|compiling| compiling.done), "{told:?}");
    let last = told.last().unwrap();
    assert!(last.done == last.total && last.total > 10, "{told:?}");
    assert_eq!(last.to_string(), format!("{0} of {0} kernels", last.total));
    // One whose future is dropped half-way is not lost.
    {
        let batches = micro_batches(&settings, 2);
        let mut step = pin!(trainer.warm_up_step(&batches, |_| ()));
        assert!(step.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    gpu.set_budget(Budget::new(Duration::from_millis(4)));
    block_on(gpu.finish()).unwrap();
    let mut told = Vec::new();
    block_on(trainer.warm_up_step(&micro_batches(&settings, 3), |compiling| told.push(compiling))).unwrap();
    assert!(told.iter().all(|compiling| compiling.total == 0), "the first two steps had them all: {told:?}");
    assert!(snapshot(&trainer) == plain);
}
