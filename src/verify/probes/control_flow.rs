//! Control flow that threads do not share, and long loops.

use super::{Probe, bytes};
use crate::verify::Level::{Quick, Usual};

const CONTROL_FLOW: &str = include_str!("control_flow.wgsl");

fn collatz(mut n: u32) -> u32 {
    let mut steps = 0;
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}

/// `ways_out_of_loops`, line by line.
fn ways_out(seed: u32) -> u32 {
    if seed % 11 == 3 {
        return 7;
    }
    let mut sum = 0u32;
    for i in 0..40 {
        if (seed + i).is_multiple_of(3) {
            continue;
        }
        for inner in 0..(seed + i) % 5 {
            match (seed ^ inner) % 4 {
                0 => sum += 1,
                1 | 2 => sum += inner,
                _ => sum ^= i,
            }
        }
        if sum > 90 {
            break;
        }
    }
    sum * 64 + seed % 64
}

/// The state after so many steps.
fn random(steps: u64) -> u32 {
    (0..steps).fold(1u32, |state, _| state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
}

pub(super) fn probes() -> Vec<Probe> {
    let x: Vec<u32> = (0..1024u32).map(|i| i * 37 % 1021 + 1).collect();
    let of = |f: fn(u32) -> u32| {
        let x = x.clone();
        move |job: &mut crate::verify::shader::Job| {
            job.groups = [16, 1, 1];
            job.sizes.insert("out".into(), 4096);
            job.expected.insert("out".into(), bytes(&x.iter().map(|&x| f(x)).collect::<Vec<_>>()));
            job.inputs.insert("x".into(), bytes(&x));
        }
    };
    // Numbers of iterations on both sides of 65,536.
    let iterations = |counts: &'static [u32], total: fn(u64) -> u64| {
        move |job: &mut crate::verify::shader::Job| {
            job.groups = [counts.len() as u32, 1, 1];
            let want: Vec<u32> = counts.iter().map(|&n| random(total(u64::from(n)))).collect();
            job.inputs.insert("x".into(), bytes(counts));
            job.sizes.insert("out".into(), want.len() as u64 * 4);
            job.expected.insert("out".into(), bytes(&want));
        }
    };
    vec![
        // Threads that wait for the others of their subgroup at the wrong place end up with their neighbours' results.
        Probe::new(
            Quick,
            "control_flow/loops of different lengths",
            CONTROL_FLOW,
            "loops_of_different_lengths",
            of(collatz),
        ),
        Probe::new(Quick, "control_flow/ways out of loops", CONTROL_FLOW, "ways_out_of_loops", of(ways_out)),
        Probe::new(
            Quick,
            "loops/up to 60000 iterations",
            CONTROL_FLOW,
            "iterations",
            iterations(&[0, 1, 1000, 32_768, 60_000], |n| n),
        ),
        // A driver that leaves a loop early gives no error, only another sum.
        Probe::new(
            Quick,
            "loops/iterations beyond 65536",
            CONTROL_FLOW,
            "iterations",
            iterations(&[65_535, 65_536, 65_537, 200_000], |n| n),
        ),
        Probe::new(
            Usual,
            "loops/iterations of nested loops beyond 65536",
            CONTROL_FLOW,
            "nested_iterations",
            iterations(&[300, 500], |n| n * n),
        ),
    ]
}
