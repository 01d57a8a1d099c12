//! The top-K choice and the placement of rows by expert, which are exact, over the scores that break sorts and scans.

use super::routed::{Routed, route as on_host};
use crate::error::Result;
use crate::kernels::routing::{route, sum_counts, update_bias};
use crate::kernels::routing_groups::{GroupChoice, GroupScore, OUTSIDE, keep_groups};
use crate::tensor::Tensor;
use crate::verify::Level::{self, Full, Quick, Usual};
use crate::verify::context::{Case, Context, Findings};

/// A score by token and expert, from noise in -1..1.
type Score = fn(usize, usize, f32) -> f32;

/// A bias by expert.
type Bias = Option<fn(usize) -> f32>;

/// Numbers in -1..1 from a linear congruential generator.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = 7 + seed as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// All of them: tokens, experts, choices, rows of a tile.
pub(super) fn cases() -> Vec<Case> {
    let plain: Score = |_, _, noise| noise;
    let list: [(Level, &str, [usize; 4], Score, Bias); 23] = [
        (Usual, "one token, one expert", [1, 1, 1, 8], plain, None),
        (Usual, "one token", [1, 8, 2, 32], plain, None),
        (Usual, "one expert", [131, 1, 1, 16], plain, None),
        (Quick, "random", [37, 8, 2, 32], plain, None),
        (Usual, "soft routing", [21, 8, 8, 16], plain, None),
        (Usual, "tiles of one row", [53, 7, 3, 1], plain, None),
        (Usual, "tiles of an odd size", [67, 5, 2, 13], plain, None),
        (Usual, "signed zeros", [20, 4, 2, 8], |t, e, _| if (t + e) % 2 == 0 { 0.0 } else { -0.0 }, None),
        (
            Usual,
            "huge and infinite",
            [20, 6, 3, 8],
            |t, e, _| match (t + e) % 6 {
                0 => f32::INFINITY,
                1 => f32::NEG_INFINITY,
                2 => f32::MAX,
                n => n as f32,
            },
            None,
        ),
        (Usual, "some NaN", [64, 8, 3, 8], |t, e, _| if (t + e) % 3 == 0 { f32::NAN } else { e as f32 }, None),
        (Usual, "only NaN", [64, 8, 8, 8], |_, _, _| f32::NAN, None),
        (
            Quick,
            "experts without tokens",
            [41, 8, 2, 32],
            |t, e, _| if e == 3 || e == 7 { -9.0 } else { ((t * 31 + e * 17) % 23) as f32 },
            None,
        ),
        (Usual, "all scores equal", [130, 9, 4, 32], |_, _, _| 0.125, None),
        (Usual, "one hot", [130, 9, 2, 32], |t, e, _| f32::from(u8::from(t * 5 % 9 == e)), None),
        (Usual, "biased", [200, 8, 2, 32], plain, Some(|e| e as f32 * 0.3 - 1.0)),
        (Quick, "bias of one expert", [200, 8, 2, 32], plain, Some(|e| if e == 5 { 100.0 } else { 0.0 })),
        (Usual, "coarse ties", [300, 16, 5, 32], |t, e, _| ((t * 7 + e * 3) % 4) as f32, None),
        (Usual, "all on one pair", [500, 8, 2, 32], |_, e, _| if e == 3 || e == 6 { 1.0 } else { 0.0 }, None),
        (Usual, "many choices", [19, 160, 64, 8], plain, None),
        (Usual, "many experts", [97, 1024, 3, 32], plain, None),
        (Usual, "several spans", [6007, 13, 2, 32], plain, None),
        (Full, "more than 65535 tokens", [70_001, 5, 2, 32], plain, None),
        (Full, "more than 65535 workgroups", [530_001, 3, 1, 8], plain, None),
    ];
    let route = |(level, name, shape, score, bias)| {
        Case::new(level, format!("routing/route/{name}"), async move |context| {
            verify(context, shape, score, bias).await
        })
    };
    let mut all: Vec<Case> = list.into_iter().map(route).collect();
    all.push(Case::new(Quick, "routing/bias/towards the mean", balance));
    all.push(Case::new(Quick, "routing/groups/kept", groups));
    all.push(Case::new(Usual, "routing/counts/added", counts));
    all
}

async fn verify(
    context: &Context,
    [tokens, experts, top_k, tile_rows]: [usize; 4],
    score: Score,
    bias: Bias,
) -> Result<Findings> {
    let noise = noise(tokens * experts, context.seed - context.seed.min(1));
    let scores: Vec<f32> = noise.iter().enumerate().map(|(i, x)| score(i / experts, i % experts, *x)).collect();
    let bias: Option<Vec<f32>> = bias.map(|bias| (0..experts).map(bias).collect());
    let want = on_host(&scores, bias.as_deref(), [experts, top_k, tile_rows]);
    let mut found = Findings::default();
    let mut first = None;
    let device_scores = Tensor::from_f32(&context.gpu, [tokens, experts], &scores)?;
    let device_bias = bias.as_ref().map(|b| Tensor::from_f32(&context.gpu, [experts], b)).transpose()?;
    context
        .twice("routing", &mut found, async || {
            let routing = route(&device_scores, device_bias.as_ref(), top_k, tile_rows)?;
            let host = async |t: &Tensor| t.to_u32().await;
            let got = Routed {
                index: host(&routing.index).await?,
                tile_expert: host(&routing.groups.tile_expert).await?,
                offsets: host(&routing.groups.offsets).await?,
                counts: host(&routing.groups.counts).await?,
                slot: host(&routing.slot).await?,
                source: host(&routing.source).await?,
            };
            let bits = |x: &[u32]| x.iter().map(|&x| f32::from_bits(x)).collect();
            let parts = [&got.index, &got.tile_expert, &got.offsets, &got.counts, &got.slot, &got.source];
            let parts = parts.map(|x| bits(x)).to_vec();
            first.get_or_insert(got);
            Ok(parts)
        })
        .await?;
    let got = first.unwrap_or_default();
    for (what, got, want) in [
        ("index", &got.index, &want.index),
        ("counts", &got.counts, &want.counts),
        ("offsets", &got.offsets, &want.offsets),
        ("tile_expert", &got.tile_expert, &want.tile_expert),
        ("slot", &got.slot, &want.slot),
        ("source", &got.source, &want.source),
    ] {
        found.same(what, got, want);
    }
    Ok(found)
}

/// The bias moves towards the mean load by the sign of the difference.
async fn balance(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    for counts in [vec![4, 0, 2, 2], vec![3, 2, 2, 2], vec![9], (0..1001).collect::<Vec<u32>>()] {
        let bias = Tensor::from_f32(&context.gpu, [counts.len()], &vec![0.5; counts.len()])?;
        update_bias(&bias, &Tensor::from_u32(&context.gpu, [counts.len()], &counts)?, 0.25)?;
        let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
        let moved = |c: &u32| match (u64::from(*c) * counts.len() as u64).cmp(&total) {
            std::cmp::Ordering::Less => 0.75,
            std::cmp::Ordering::Equal => 0.5f32,
            std::cmp::Ordering::Greater => 0.25,
        };
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let want: Vec<f32> = counts.iter().map(moved).collect();
        found.same(&format!("bias of {} experts", counts.len()), &bits(&bias.to_f32().await?), &bits(&want));
    }
    Ok(found)
}

/// Experts outside a token's groups of largest value come last.
async fn groups(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let list = [(1, 2, 1, 1), (67, 12, 3, 2), (33, 160, 8, 3), (5, 64, 64, 7), (3, 1024, 64, 4)];
    for (number, (tokens, experts, groups, kept)) in list.into_iter().enumerate() {
        let score = if number % 2 == 1 { GroupScore::TwoLargest } else { GroupScore::Largest };
        let score = if experts == groups { GroupScore::Largest } else { score };
        let (scores, bias) = (noise(tokens * experts, 5), noise(experts, 6));
        let upload = |shape: &[usize], x: &[f32]| Tensor::from_f32(&context.gpu, shape, x);
        let choice = GroupChoice { groups, kept, score };
        let chosen = keep_groups(&upload(&[tokens, experts], &scores)?, Some(&upload(&[experts], &bias)?), choice)?;
        let size = experts / groups;
        let mut want = Vec::new();
        for row in scores.chunks(experts) {
            let row: Vec<f32> = row.iter().zip(&bias).map(|(s, b)| s + b).collect();
            let value = |g: usize| {
                let mut group = row[g * size..(g + 1) * size].to_vec();
                group.sort_by(|a, b| b.total_cmp(a));
                if score == GroupScore::TwoLargest { group[0] + group[1] } else { group[0] }
            };
            let mut order: Vec<usize> = (0..groups).collect();
            order.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
            let kept = &order[..kept];
            want.extend((0..experts).map(|e| if kept.contains(&(e / size)) { row[e] } else { OUTSIDE.min(row[e]) }));
        }
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        found.same(&format!("{experts} experts in {groups} groups"), &bits(&chosen.to_f32().await?), &bits(&want));
    }
    Ok(found)
}

/// Counts of micro-batches add up.
async fn counts(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let counts: Vec<u32> = (0..131).map(|i| i * 7 % 31).collect();
    let part = Tensor::from_u32(&context.gpu, [131], &counts)?;
    let sum = Tensor::from_u32(&context.gpu, [131], &[u32::MAX; 131])?;
    sum_counts(&part, false, &sum)?;
    sum_counts(&part, true, &sum)?;
    let want: Vec<u32> = counts.iter().map(|c| 2 * c).collect();
    found.same("sum", &sum.to_u32().await?, &want);
    Ok(found)
}
