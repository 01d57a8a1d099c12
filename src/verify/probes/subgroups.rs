//! Subgroup operations, whatever the size and the order of subgroups.

use std::collections::BTreeMap;

use super::{Probe, words};
use crate::gpu::AdapterReport;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::Findings;
use crate::verify::shader::Buffers;

const SUBGROUPS: &str = include_str!("subgroups.wgsl");
const GROUPS: u32 = 16;

pub(super) fn probes(adapter: &AdapterReport) -> Vec<Probe> {
    let (least, most) = adapter.subgroup_size;
    all(most).into_iter().map(|probe| with_sizes(probe, least, most)).collect()
}

/// The probes for subgroups of at most `most` threads.
pub(super) fn all(most: u32) -> Vec<Probe> {
    [(Quick, most.max(64)), (Usual, 256)]
        .into_iter()
        .map(|(level, threads)| {
            let name = format!("subgroups/operations in workgroups of {threads}");
            Probe::judged(
                level,
                &name,
                SUBGROUPS,
                "operations",
                |job| {
                    job.groups = [GROUPS, 1, 1];
                    job.constants.insert("WG".into(), f64::from(threads));
                    for name in ["where_am_i", "sums", "moved", "votes", "floats"] {
                        job.sizes.insert(name.into(), u64::from(GROUPS * threads) * 16);
                    }
                    // What lies past the ends of a shuffle up or down is anything.
                    job.repeatable = false;
                },
                judge,
            )
        })
        .collect()
}

/// Also looks at the sizes, which must be those that the adapter reports.
fn with_sizes(probe: Probe, least: u32, most: u32) -> Probe {
    let judge = probe.judge;
    let judge = Box::new(move |buffers: &Buffers, found: &mut Findings| {
        let mut sizes: Vec<u32> = words(buffers, "where_am_i").chunks_exact(4).map(|w| w[0]).collect();
        sizes.sort_unstable();
        sizes.dedup();
        if let Some(size) = sizes.iter().find(|size| !(least..=most).contains(size)) {
            found.wrong(format!("a subgroup has {size} threads, the adapter reports {least} to {most}"));
        }
        if sizes.len() > 1 || least != most {
            found.note(format!("subgroups of {sizes:?} threads, of {least} to {most}"));
        }
        judge(buffers, found);
    });
    Probe { subgroups: true, judge, ..probe }
}

fn number(i: u32) -> u32 {
    i.wrapping_mul(2_654_435_761) >> 16
}

/// Compares every operation with the subgroup's numbers.
fn judge(buffers: &Buffers, found: &mut Findings) {
    let quads = |name: &str| -> Vec<[u32; 4]> {
        words(buffers, name).chunks_exact(4).map(|w| [w[0], w[1], w[2], w[3]]).collect()
    };
    let (places, sums, moved, votes, floats) =
        (quads("where_am_i"), quads("sums"), quads("moved"), quads("votes"), quads("floats"));
    // Threads by their subgroup's first one, then by lane.
    let mut subgroups: BTreeMap<u32, BTreeMap<u32, u32>> = BTreeMap::new();
    for (i, [_, lane, first, _]) in places.iter().enumerate() {
        if subgroups.entry(*first).or_default().insert(*lane, i as u32).is_some() {
            return found.wrong(format!("thread {i}: another one of its subgroup is in lane {lane} too"));
        }
    }
    for (first, lanes) in &subgroups {
        let size = lanes.len() as u32;
        let numbers: Vec<u32> = lanes.values().map(|&i| number(i)).collect();
        let total: u32 = numbers.iter().sum();
        let floats_of =
            |f: fn(f32, f32) -> f32| numbers.iter().map(|&x| x as f32 - 30_000.0).reduce(f).unwrap_or(f32::NAN);
        let mut before = 0;
        for (&lane, &i) in lanes {
            let at = i as usize;
            let mut check = |what: &str, got: u32, want: u32| {
                if got != want {
                    found.wrong(format!(
                        "{what} in lane {lane} of the {size} of thread {first}: {got}, expected {want}"
                    ));
                }
            };
            check("the size", places[at][0], size);
            let of = |lane: u32| lanes.get(&lane).copied();
            if let Some(second) = of(1) {
                check("subgroupBroadcast of lane 1", places[at][3], second);
            }
            let x = number(i);
            check("subgroupAdd", sums[at][0], total);
            check("subgroupInclusiveAdd", sums[at][1], before + x);
            check("subgroupExclusiveAdd", sums[at][2], before);
            check("subgroupMax", sums[at][3], numbers.iter().copied().max().unwrap_or(0));
            before += x;
            for (what, got, from) in [
                ("subgroupShuffle", moved[at][0], Some(size - 1 - lane)),
                ("subgroupShuffleXor", moved[at][1], Some(lane ^ 1)),
                ("subgroupShuffleUp", moved[at][2], lane.checked_sub(1)),
                ("subgroupShuffleDown", moved[at][3], Some(lane + 1)),
            ] {
                if let Some(want) = from.and_then(of) {
                    check(what, got, want);
                }
            }
            let any = if numbers.iter().any(|x| x % 8 == 0) { 2 } else { 0 };
            check("subgroupAll and subgroupAny", votes[at][0], 1 + any);
            check("subgroupBallot", votes[at][1], numbers.iter().filter(|x| *x % 2 == 1).count() as u32);
            check("subgroupMin", votes[at][2], numbers.iter().copied().min().unwrap_or(0));
            check("subgroupOr", votes[at][3], numbers.iter().fold(0, |a, b| a | b));
            // Whole numbers below 2^24: sums of f32 are exact in any order.
            check("subgroupMin of f32", floats[at][0], floats_of(f32::min).to_bits());
            check("subgroupMax of f32", floats[at][1], floats_of(f32::max).to_bits());
            check("subgroupAdd of f32", floats[at][2], floats_of(|a, b| a + b).to_bits());
            if let Some(zero) = of(0) {
                check("subgroupShuffle of f32", floats[at][3], (number(zero) as f32 - 30_000.0).to_bits());
            }
        }
    }
}
