//! Grids, offsets of bindings, layouts.

use super::{Probe, bytes};
use crate::verify::Level::{Quick, Usual};

const GRIDS: &str = include_str!("grids.wgsl");
const BINDINGS: &str = include_str!("bindings.wgsl");

pub(super) fn probes() -> Vec<Probe> {
    vec![
        // More workgroups than one dimension takes: 65,535 x 2.
        Probe::new(Quick, "grids/two dimensions, more than 65535", GRIDS, "two_dimensions", |job| {
            job.groups = [65_535, 2, 1];
            let want: Vec<u32> = (0..2).flat_map(|y| (0..65_535).map(move |x| y * 65_536 + x)).collect();
            job.sizes.insert("out".into(), want.len() as u64 * 4);
            job.expected.insert("out".into(), bytes(&want));
        }),
        Probe::new(Usual, "grids/three dimensions", GRIDS, "three_dimensions", |job| {
            job.groups = [7, 5, 3];
            let mut want = Vec::new();
            for group in 0..7 * 5 * 3u32 {
                let (gx, gy, gz) = (group % 7, group / 7 % 5, group / 35);
                for index in 0..24 {
                    let (x, y, z) = (gx * 3 + index % 3, gy * 2 + index / 3 % 2, gz * 4 + index / 6);
                    want.push((z * 256 + y) * 256 + x);
                }
            }
            job.sizes.insert("out".into(), want.len() as u64 * 4);
            job.expected.insert("out".into(), bytes(&want));
        }),
        // Dispatches of one submission whose offsets a driver confuses read each other's parameters.
        Probe::new(Quick, "bindings/dynamic offsets", BINDINGS, "dynamic_offsets", |job| {
            let parts: Vec<u32> = (0..40u32)
                .flat_map(|i| {
                    let mut part = vec![u32::MAX; 64];
                    (part[0], part[1]) = ((i * 7) % 40, i * 1000);
                    part
                })
                .collect();
            let mut want = [0u32; 40];
            (0..40u32).for_each(|i| want[(i * 7 % 40) as usize] = i * 1000 + i * 7 % 40);
            job.dynamic = Some(("part".into(), 256));
            job.inputs.insert("part".into(), bytes(&parts));
            job.sizes.insert("out".into(), 160);
            job.expected.insert("out".into(), bytes(&want));
        }),
        // Lengths of runtime arrays come from the binding, not from the buffer, which is longer.
        Probe::new(Quick, "bindings/array lengths at offsets", BINDINGS, "array_lengths", |job| {
            job.inputs.insert("a".into(), bytes(&(1..=37).collect::<Vec<u32>>()));
            job.inputs.insert("b".into(), bytes(&(1..=20).collect::<Vec<u32>>()));
            job.inputs.insert("c".into(), bytes(&[1000u32]));
            job.expected.insert("lengths".into(), bytes(&[37u32, 5, 1, 37 + 20 + 1000]));
        }),
        // Structs with vectors of three and small matrices are where layouts of shading languages differ.
        Probe::new(Usual, "bindings/layout of a uniform struct", BINDINGS, "uniform_layout", |job| {
            // Bytes 0, 8, 16, 28 (the word behind the vector), 32, 48 (columns of 16), 96, 128.
            let mut words = [f32::NAN; 36];
            let places = [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 20, 21, 22];
            places.iter().enumerate().for_each(|(i, &place)| words[place] = i as f32 + 1.0);
            (24..32).for_each(|place| words[place] = place as f32);
            words[7] = f32::from_bits(77);
            words[32] = f32::from_bits((-5i32) as u32);
            let mut want: Vec<f32> = (0..20).map(|i| i as f32 + 1.0).collect();
            want[6] = 77.0;
            want.extend((24..32).map(|place| place as f32));
            want.push(-5.0);
            job.inputs.insert("mixed".into(), bytes(&words));
            job.sizes.insert("scalars".into(), 29 * 4);
            job.expected.insert("scalars".into(), bytes(&want));
        }),
        // A store of a vector of three that writes four words loses what another thread put behind it.
        Probe::new(Quick, "bindings/stores of vec3 beside others", BINDINGS, "vec3_neighbours", |job| {
            job.groups = [8, 1, 1];
            let one = |i: u32| {
                let f = i as f32;
                [f.to_bits(), (f + 0.25).to_bits(), (f + 0.5).to_bits(), i + 1000]
            };
            let want: Vec<u32> = (0..256).flat_map(one).collect();
            job.sizes.insert("neighbours".into(), want.len() as u64 * 4);
            job.expected.insert("neighbours".into(), bytes(&want));
        }),
    ]
}
