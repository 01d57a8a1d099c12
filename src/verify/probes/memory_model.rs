//! A short look at the memory model: litmus tests of two threads, thousands at a time, as in "MC Mutants" (Levine et al., ASPLOS
//! 2023), which found drivers that break coherence.
//!
//! WGSL's atomics are relaxed: loads and stores of different words may be seen in any order. Those of one word may not.

use super::{Probe, words};
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::Findings;
use crate::verify::shader::{Buffers, Job};

const MEMORY_MODEL: &str = include_str!("memory_model.wgsl");
/// Instances, one for each thread; a power of two.
const COUNT: u64 = 1 << 14;

/// The instance's word, as in the shader.
fn place(i: usize) -> usize {
    (i * 97) % COUNT as usize
}

fn set(job: &mut Job) {
    job.groups = [(COUNT / 64) as u32, 1, 1];
    job.runs = 4;
    job.repeatable = false;
    let zeros = vec![0; COUNT as usize * 4];
    job.inputs.insert("x".into(), zeros.clone());
    job.sizes.insert("first".into(), COUNT * 4);
    job.sizes.insert("second".into(), COUNT * 4);
}

fn set_both(job: &mut Job) {
    set(job);
    job.inputs.insert("y".into(), vec![0; COUNT as usize * 4]);
}

/// Returns the values that both threads read, by instance.
fn read(buffers: &Buffers) -> Vec<(u32, u32)> {
    words(buffers, "first").into_iter().zip(words(buffers, "second")).collect()
}

/// How often something allowed was seen.
fn note(found: &mut Findings, what: &str, seen: usize) {
    found.note(format!("{what}: seen in {seen} of {COUNT} instances; WGSL allows it"));
}

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe::judged(
            Quick,
            "memory_model/coherence of two loads",
            MEMORY_MODEL,
            "two_loads",
            set,
            |buffers, found| {
                let stale = read(buffers).iter().filter(|r| **r == (1, 0)).count();
                if stale > 0 {
                    found.wrong(format!("{stale} of {COUNT} threads saw a new value and then the old one"));
                }
            },
        ),
        Probe::judged(
            Quick,
            "memory_model/coherence of a store and a load",
            MEMORY_MODEL,
            "store_and_load",
            set,
            |buffers, found| {
                let x = words(buffers, "x");
                for (i, (a, b)) in read(buffers).into_iter().enumerate() {
                    let last = x[place(i)];
                    let right = [1, 2].contains(&a) && [1, 2].contains(&b) && [1, 2].contains(&last);
                    // Who sees the other's value saw it stored after the own one.
                    if !right || (a == 2 && last == 1) || (b == 1 && last == 2) {
                        found.wrong(format!(
                            "instance {i}: stored 1 and read {a}; stored 2 and read {b}; left is {last}"
                        ));
                    }
                }
            },
        ),
        Probe::judged(
            Usual,
            "memory_model/message passing",
            MEMORY_MODEL,
            "message_passing",
            set_both,
            |buffers, found| {
                let weak = read(buffers).iter().filter(|r| **r == (1, 0)).count();
                note(found, "a flag before its data", weak);
            },
        ),
        Probe::judged(Usual, "memory_model/store buffer", MEMORY_MODEL, "store_buffer", set_both, |buffers, found| {
            let weak = read(buffers).iter().filter(|r| **r == (0, 0)).count();
            note(found, "both loads before both stores", weak);
        }),
    ]
}
