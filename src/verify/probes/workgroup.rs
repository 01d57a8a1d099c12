//! Workgroup memory, barriers and atomics.

use super::{Probe, bytes};
use crate::verify::Level::{Quick, Usual};

const WORKGROUP: &str = include_str!("workgroup.wgsl");
const STORAGE: &str = include_str!("storage.wgsl");

/// Workgroups of each probe: enough that memory is used again.
const GROUPS: u32 = 64;

/// Returns the number that every thread of workgroup `group` chains in the broadcasts.
fn chain(group: u32) -> u32 {
    (0..64).fold(1, |chain: u32, round| {
        let writer = (round * 37 + group) % 64;
        chain.wrapping_mul(31).wrapping_add(writer * 65536 + round)
    })
}

pub(super) fn probes() -> Vec<Probe> {
    let groups = |job: &mut crate::verify::shader::Job| job.groups = [GROUPS, 1, 1];
    let broadcast = |job: &mut crate::verify::shader::Job| {
        job.groups = [GROUPS, 1, 1];
        let want: Vec<u32> = (0..GROUPS).flat_map(|group| [chain(group); 64]).collect();
        job.expected.insert("out".into(), bytes(&want));
        job.sizes.insert("out".into(), u64::from(GROUPS) * 256);
    };
    vec![
        // Drivers and wgpu share this work; where neither does it, a kernel reads what another left.
        Probe::new(Quick, "workgroup/zeroed memory", WORKGROUP, "zeroed_memory", |job| {
            groups(job);
            job.sizes.insert("out".into(), u64::from(GROUPS) * 256);
            job.expected.insert("out".into(), vec![0; GROUPS as usize * 256]);
        }),
        // Barriers that are missing or moved by a compiler show in the deeper levels of a tree.
        Probe::new(Quick, "workgroup/barriers in a tree reduction", WORKGROUP, "tree_reduction", |job| {
            groups(job);
            let sum = |group: u32| {
                (0..256).fold(0u32, |sum, i| sum.wrapping_add((group * 256 + i).wrapping_mul(2_654_435_761)))
            };
            let want: Vec<u32> = (0..GROUPS).map(sum).collect();
            job.sizes.insert("out".into(), u64::from(GROUPS) * 4);
            job.expected.insert("out".into(), bytes(&want));
        }),
        // A load that all threads share, hoisted out of a loop, sees the first round's value in all of them.
        Probe::new(Quick, "workgroup/broadcast by a uniform load", WORKGROUP, "broadcast", broadcast),
        Probe::new(Usual, "workgroup/broadcast by barriers", WORKGROUP, "broadcast_by_barriers", broadcast),
        Probe::new(Quick, "workgroup/atomics", WORKGROUP, "atomics", |job| {
            groups(job);
            let want = (0..GROUPS).flat_map(|group| {
                let values = || (0..256u32).map(move |i| i * 3 + group);
                [
                    values().sum(),
                    values().max().unwrap_or(0),
                    values().min().unwrap_or(0),
                    0xff00_0000,
                    0x00ff_ffff,
                    values().fold(0, |a, b| a ^ b),
                    0u32.wrapping_sub(256),
                    values().sum(),
                ]
            });
            job.sizes.insert("out".into(), u64::from(GROUPS) * 32);
            job.expected.insert("out".into(), bytes(&want.collect::<Vec<u32>>()));
        }),
        Probe::new(Quick, "storage/atomics between workgroups", STORAGE, "tickets_by_atomics", |job| {
            groups(job);
            let count = GROUPS * 64;
            let mixed = (0..count).fold(0, |a, i| a ^ i.wrapping_mul(2_654_435_761));
            let sums = [count, count - 1, mixed, (0..count).sum()];
            job.inputs.insert("sums".into(), vec![0; 16]);
            job.sizes.insert("tickets".into(), u64::from(count) * 4);
            job.expected.insert("sums".into(), bytes(&sums));
            job.expected.insert("tickets".into(), bytes(&(1..=count).collect::<Vec<u32>>()));
        }),
        Probe::new(Quick, "storage/stores before a barrier", STORAGE, "stores_before_a_barrier", |job| {
            groups(job);
            let sum = |local: u32| {
                (0..8u32).fold(0u32, |sum, round| {
                    let from = (local * 5 + 31 * round) % 128;
                    sum.wrapping_mul(17).wrapping_add(from * 8 + round)
                })
            };
            let want: Vec<u32> = (0..GROUPS).flat_map(|_| (0..128).map(sum)).collect();
            job.sizes.insert("cells".into(), u64::from(GROUPS) * 512);
            job.sizes.insert("seen".into(), u64::from(GROUPS) * 512);
            job.expected.insert("seen".into(), bytes(&want));
        }),
    ]
}
