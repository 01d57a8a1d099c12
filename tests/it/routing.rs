//! Routing against a plain host implementation, over the shapes and scores that break sorts and scans.

use pollster::block_on;
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::grouped::{Groups, NONE};
use sdmoe::low_level::kernels::routing::{route, update_bias};
use sdmoe::low_level::kernels::routing_groups::{GroupChoice, GroupScore, OUTSIDE, keep_groups};
use sdmoe::tensor::Tensor;

/// Everything that `route` gives, on the host.
#[derive(Debug, PartialEq)]
struct Host {
    index: Vec<u32>,
    tile_expert: Vec<u32>,
    offsets: Vec<u32>,
    counts: Vec<u32>,
    slot: Vec<u32>,
    source: Vec<u32>,
}

struct Case {
    name: &'static str,
    tokens: usize,
    experts: usize,
    top_k: usize,
    tile_rows: usize,
    scores: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn new(name: &'static str, tokens: usize, experts: usize, top_k: usize, tile_rows: usize) -> Self {
        let scores = noise(tokens * experts, 7);
        Case { name, tokens, experts, top_k, tile_rows, scores, bias: None }
    }

    fn scores(mut self, score: impl Fn(usize, usize) -> f32) -> Self {
        self.scores = (0..self.tokens * self.experts).map(|i| score(i / self.experts, i % self.experts)).collect();
        self
    }

    fn bias(mut self, bias: impl Fn(usize) -> f32) -> Self {
        self.bias = Some((0..self.experts).map(bias).collect());
        self
    }

    fn on_host(&self) -> Host {
        let mut index = Vec::new();
        for t in 0..self.tokens {
            let row = &self.scores[t * self.experts..(t + 1) * self.experts];
            let value = |e: usize| {
                let v = row[e] + self.bias.as_ref().map_or(0.0, |b| b[e]);
                if v.is_nan() { (0, 0.0) } else { (1, v) }
            };
            let mut order: Vec<usize> = (0..self.experts).collect();
            // A stable sort keeps the lower expert first.
            order.sort_by(|&a, &b| value(b).partial_cmp(&value(a)).unwrap());
            index.extend(order[..self.top_k].iter().map(|&e| e as u32));
        }
        let capacity = Groups::capacity(index.len(), self.experts, self.tile_rows);
        let mut host = Host {
            tile_expert: vec![NONE; capacity / self.tile_rows],
            offsets: vec![0; self.experts + 1],
            counts: vec![0; self.experts],
            slot: vec![NONE; index.len()],
            source: vec![NONE; capacity],
            index,
        };
        let mut row = 0;
        for e in 0..self.experts {
            host.offsets[e] = row as u32;
            let first = row;
            for (pair, _) in host.index.iter().enumerate().filter(|(_, i)| **i == e as u32) {
                host.source[row] = pair as u32;
                host.slot[pair] = row as u32;
                row += 1;
            }
            host.counts[e] = (row - first) as u32;
            row = row.next_multiple_of(self.tile_rows);
            host.tile_expert[first / self.tile_rows..row / self.tile_rows].fill(e as u32);
        }
        host.offsets[self.experts] = row as u32;
        host
    }

    fn on_device(&self, gpu: &Gpu) -> Host {
        let scores = Tensor::from_f32(gpu, [self.tokens, self.experts], &self.scores).unwrap();
        let bias = self.bias.as_ref().map(|b| Tensor::from_f32(gpu, [self.experts], b).unwrap());
        let routing = route(&scores, bias.as_ref(), self.top_k, self.tile_rows).unwrap();
        let host = |t: &Tensor| block_on(t.to_u32()).unwrap();
        Host {
            index: host(&routing.index),
            tile_expert: host(&routing.groups.tile_expert),
            offsets: host(&routing.groups.offsets),
            counts: host(&routing.groups.counts),
            slot: host(&routing.slot),
            source: host(&routing.source),
        }
    }
}

/// Numbers in -1..1 from a linear congruential generator.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("random", 37, 8, 2, 32),
        Case::new("one token", 1, 8, 2, 32),
        Case::new("one token, one expert", 1, 1, 1, 8),
        Case::new("one expert", 131, 1, 1, 16),
        Case::new("soft routing", 21, 8, 8, 16),
        Case::new("tiles of one row", 53, 7, 3, 1),
        Case::new("tiles of an odd size", 67, 5, 2, 13),
        Case::new("many experts", 97, 1024, 3, 32),
        Case::new("many choices", 19, 160, 64, 8),
        Case::new("more choices than one launch makes", 9, 1024, 70, 8),
        Case::new("more choices, all scores equal", 9, 1024, 70, 8).scores(|_, _| 0.25),
        Case::new("several spans", 6007, 13, 2, 32),
        Case::new("more than 65535 tokens", 70_001, 5, 2, 32),
        Case::new("more than 65535 workgroups", 530_001, 3, 1, 8),
        Case::new("all scores equal", 130, 9, 4, 32).scores(|_, _| 0.125),
        Case::new("one hot", 130, 9, 2, 32).scores(|t, e| f32::from(u8::from(t * 5 % 9 == e))),
        Case::new("coarse ties", 300, 16, 5, 32).scores(|t, e| ((t * 7 + e * 3) % 4) as f32),
        Case::new("all on one pair", 500, 8, 2, 32).scores(|_, e| if e == 3 || e == 6 { 1.0 } else { 0.0 }),
        Case::new("experts without tokens", 41, 8, 2, 32)
            .scores(|t, e| if e == 3 || e == 7 { -9.0 } else { ((t * 31 + e * 17) % 23) as f32 }),
        Case::new("signed zeros", 20, 4, 2, 8).scores(|t, e| if (t + e) % 2 == 0 { 0.0 } else { -0.0 }),
        Case::new("huge and infinite", 20, 6, 3, 8).scores(|t, e| match (t + e) % 6 {
            0 => f32::INFINITY,
            1 => f32::NEG_INFINITY,
            2 => f32::MAX,
            n => n as f32,
        }),
        Case::new("some NaN", 64, 8, 3, 8).scores(|t, e| if (t + e) % 3 == 0 { f32::NAN } else { e as f32 }),
        Case::new("only NaN", 64, 8, 8, 8).scores(|_, _| f32::NAN),
        Case::new("biased", 200, 8, 2, 32).bias(|e| e as f32 * 0.3 - 1.0),
        Case::new("bias of one expert", 200, 8, 2, 32).bias(|e| if e == 5 { 100.0 } else { 0.0 }),
    ]
}

#[test]
fn routing_equals_the_host_in_every_tier() {
    let cases = cases();
    let expected: Vec<Host> = cases.iter().map(Case::on_host).collect();
    for gpu in crate::common::tiers() {
        for (case, want) in cases.iter().zip(&expected) {
            let got = case.on_device(&gpu);
            assert!(got == *want, "{} on {gpu:?}{}", case.name, difference(&got, want));
            assert!(case.on_device(&gpu) == got, "{} twice on {gpu:?}", case.name);
        }
    }
}

#[test]
fn routing_split_over_small_bindings_is_the_same() {
    // A row of 1024 scores that goes with three choices starts aligned once in alignment / 4 rows, which must fit a binding.
    let gpu = crate::common::small_binding((1 << 16).max(crate::common::gpu().offset_alignment() * 1024));
    for case in cases() {
        let (got, want) = (case.on_device(&gpu), case.on_host());
        assert!(got == want, "{}{}", case.name, difference(&got, &want));
    }
}

fn difference(got: &Host, want: &Host) -> String {
    let fields = [
        ("index", &got.index, &want.index),
        ("counts", &got.counts, &want.counts),
        ("offsets", &got.offsets, &want.offsets),
        ("tile_expert", &got.tile_expert, &want.tile_expert),
        ("slot", &got.slot, &want.slot),
        ("source", &got.source, &want.source),
    ];
    let first = |(name, a, b): (&str, &Vec<u32>, &Vec<u32>)| {
        let i = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i))?;
        Some(format!(": {name}[{i}] is {:?}, expected {:?}", a.get(i), b.get(i)))
    };
    fields.into_iter().find_map(first).unwrap_or_default()
}

#[test]
fn impossible_routing_is_refused() {
    let gpu = crate::common::gpu();
    let scores = Tensor::zeros(&gpu, [4, 8]).unwrap();
    for (top_k, tile_rows) in [(0, 8), (9, 8), (2, 0)] {
        assert!(route(&scores, None, top_k, tile_rows).unwrap_err().to_string().contains("route"));
    }
    assert!(route(&scores, Some(&Tensor::zeros(&gpu, [7]).unwrap()), 2, 8).is_err());
    let empty = route(&Tensor::zeros(&gpu, [0, 8]).unwrap(), None, 2, 8).unwrap();
    assert_eq!(block_on(empty.groups.counts.to_u32()).unwrap(), [0; 8]);
}

#[test]
fn the_bias_moves_towards_the_mean_load() {
    let gpu = crate::common::gpu();
    let step = |counts: &[u32]| {
        let bias = Tensor::from_f32(&gpu, [counts.len()], &vec![0.5; counts.len()]).unwrap();
        update_bias(&bias, &Tensor::from_u32(&gpu, [counts.len()], counts).unwrap(), 0.25).unwrap();
        block_on(bias.to_f32()).unwrap()
    };
    assert_eq!(step(&[4, 0, 2, 2]), [0.25, 0.75, 0.5, 0.5]);
    assert_eq!(step(&[3, 2, 2, 2]), [0.25, 0.75, 0.75, 0.75]);
    assert_eq!(step(&[9]), [0.5]);
    let many = step(&(0..1001).collect::<Vec<u32>>());
    assert!((0..1001).all(|e| many[e]
        == if e < 500 {
            0.75
        } else if e > 500 {
            0.25
        } else {
            0.5
        }));
}

/// The scores with those outside the kept groups lowered, on the host.
fn kept(scores: &[f32], bias: Option<&[f32]>, experts: usize, choice: GroupChoice) -> Vec<f32> {
    let size = experts / choice.groups;
    let mut all = Vec::new();
    for row in scores.chunks(experts) {
        let row: Vec<f32> = row.iter().enumerate().map(|(e, s)| s + bias.map_or(0.0, |b| b[e])).collect();
        let value = |g: usize| {
            let mut group = row[g * size..(g + 1) * size].to_vec();
            group.sort_by(|a, b| b.total_cmp(a));
            if choice.score == GroupScore::TwoLargest { group[0] + group[1] } else { group[0] }
        };
        let mut order: Vec<usize> = (0..choice.groups).collect();
        // A stable sort keeps the lower group first.
        order.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
        let kept = &order[..choice.kept];
        all.extend((0..experts).map(|e| if kept.contains(&(e / size)) { row[e] } else { OUTSIDE.min(row[e]) }));
    }
    all
}

#[test]
fn experts_outside_a_tokens_best_groups_come_last() {
    for gpu in crate::common::tiers() {
        for (tokens, experts, groups, kept_groups) in [(1, 2, 1, 1), (67, 12, 3, 2), (33, 160, 8, 3), (5, 64, 64, 7)] {
            for score in [GroupScore::Largest, GroupScore::TwoLargest] {
                if score == GroupScore::TwoLargest && experts == groups {
                    continue;
                }
                let choice = GroupChoice { groups, kept: kept_groups, score };
                let scores = noise(tokens * experts, 11);
                let bias = noise(experts, 12);
                let on_device = Tensor::from_f32(&gpu, [tokens, experts], &scores).unwrap();
                let device_bias = Tensor::from_f32(&gpu, [experts], &bias).unwrap();
                for with_bias in [false, true] {
                    let (host, device) = (with_bias.then_some(&bias[..]), with_bias.then_some(&device_bias));
                    let got = block_on(keep_groups(&on_device, device, choice).unwrap().to_f32()).unwrap();
                    let want = kept(&scores, host, experts, choice);
                    assert_eq!(got, want, "{tokens} x {experts}, {choice:?}, bias {with_bias}, {:?}", gpu.tier());
                }
            }
        }
    }
}

#[test]
fn groups_that_do_not_divide_the_experts_are_an_error() {
    let gpu = crate::common::gpu();
    let scores = Tensor::from_f32(&gpu, [2, 12], &[0.0; 24]).unwrap();
    for (groups, kept) in [(5, 1), (0, 1), (3, 4), (3, 0)] {
        let choice = GroupChoice { groups, kept, score: GroupScore::Largest };
        let error = keep_groups(&scores, None, choice).unwrap_err().to_string();
        assert!(error.contains("equal groups"), "{error}");
    }
    let alone = GroupChoice { groups: 12, kept: 2, score: GroupScore::TwoLargest };
    assert!(keep_groups(&scores, None, alone).is_err());
}
