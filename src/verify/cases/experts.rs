//! Ops of the router and the experts.

use super::routed::{array, groups, route};
use super::rows::{Cases, Kind};
use super::sizes;
use crate::autograd::check::{Input, Tolerance};
use crate::autograd::{Array, Op};
use crate::gpu::Tier;
use crate::kernels::grouped::Groups;
use crate::ops::{Combine, CombineWeights, ExpertMatMul, LoadBalance, MatMul, Permute, RouterScores, Score, ZLoss};
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Needs};

/// Tokens, width, experts, choices, rows of a tile.
type Shape = [usize; 5];

/// Scores of a softmax router.
fn scores(context: &Context, [tokens, _, experts, ..]: Shape, seed: u64) -> Array {
    let logits = Array::random(&[tokens, experts], seed + 7919 * context.seed);
    let scores = RouterScores { score: Score::Softmax }.reference(&[logits]);
    Array::from_f32(&scores.shape, &scores.to_f32())
}

/// The choices of a router, on the host: `index`, `counts`, `source`, `slot`.
fn routed(context: &Context, shape: Shape) -> [Input; 4] {
    let [tokens, _, experts, top_k, tile_rows] = shape;
    let routed = route(&scores(context, shape, 3).to_f32(), None, [experts, top_k, tile_rows]);
    let index = |shape: &[usize], data: &[u32]| Input::Index(array(shape, data));
    [
        index(&[tokens, top_k], &routed.index),
        index(&[experts], &routed.counts),
        index(&[routed.source.len()], &routed.source),
        index(&[tokens, top_k], &routed.slot),
    ]
}

/// All of them.
pub(super) fn cases(tier: Tier, f16: bool) -> Vec<Case> {
    let mut cases = Cases::new(tier, f16);
    let shapes = [
        (Usual, [1, 1, 1, 1, 1]),
        (Usual, [1, 4, 8, 2, 8]),
        (Quick, [7, 33, 5, 2, 4]),
        (Quick, [37, 24, 8, 2, 16]),
        (Usual, [13, 64, 6, 6, 8]),
        (Usual, [67, 7, 129, 5, 8]),
        (Usual, [130, 260, 9, 3, 32]),
        (Usual, [257, 3, 2, 1, 32]),
    ];
    if !f16 {
        router(&mut cases, &shapes);
    }
    for (level, shape) in shapes {
        let [tokens, d, experts, top_k, tile_rows] = shape;
        cases.op(level, format!("op/permute/{}", sizes(&shape)), (0.0, 1.0), move |c, kind| {
            let [_, _, source, slot] = routed(c, shape);
            (Permute, vec![kind.random(c, &[tokens, d], 1), source, slot])
        });
        cases.op(level, format!("op/combine/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            let [_, _, source, slot] = routed(c, shape);
            let rows = Groups::capacity(tokens * top_k, experts, tile_rows);
            let z = kind.random(c, &[rows, d], 2);
            (Combine, vec![z, kind.single(c, &[tokens, top_k], 3), slot, source])
        });
    }
    for (level, [rows, k, n]) in
        [(Usual, [1, 1, 1]), (Quick, [7, 33, 5]), (Usual, [6, 8, 4]), (Usual, [20, 12, 37]), (Quick, [65, 64, 36])]
    {
        for trans_b in [false, true] {
            let form = if trans_b { "nt" } else { "nn" };
            cases.op(level, format!("op/matmul/{form} {}", sizes(&[rows, k, n])), (1.0, 1.0), move |c, kind| {
                let w = kind.weight(c, &if trans_b { [n, k] } else { [k, n] }, 2);
                (MatMul { trans_b }, vec![kind.random(c, &[rows, k], 1), w])
            });
        }
    }
    for (level, counts, m, n) in [
        // More than few (`grouped`): there the padding, which is random here, is not read but taken to be zero, as it is.
        (Usual, &[1, 34][..], 1, 1),
        (Quick, &[0, 5, 0, 33], 8, 4),
        (Usual, &[0, 5, 0, 33], 5, 7),
        (Usual, &[70, 0], 36, 20),
        (Usual, &[17, 3, 40, 0, 0, 96], 40, 65),
    ] {
        let name = format!("op/expert_matmul/{} rows, {}", sizes(counts), sizes(&[m, n]));
        let case = Case::new(level, name, async move |c| {
            let host = groups(&c.gpu, counts, 0)?;
            let kind = Kind { f16 };
            let inputs = [kind.random(c, &[host.groups.capacity, m], 1), kind.weight(c, &[counts.len(), m, n], 2)];
            let op = ExpertMatMul { groups: host.groups, host_tile_expert: host.tile_expert };
            let tolerance = if f16 { Tolerance::half(1.0, 1.0) } else { Tolerance::default() };
            c.op(op, &inputs, tolerance, 3).await
        });
        let f16_variant = |case: Case| case.needs(Needs::F16).variant(format!("{} f16", tier.name()));
        cases.all.push(if f16 { f16_variant(case) } else { case });
    }
    cases.all
}

/// The router's ops, which are f32 whatever is stored in f16.
fn router(cases: &mut Cases, shapes: &[(crate::verify::Level, Shape)]) {
    for &(level, shape) in shapes {
        let [tokens, _, experts, top_k, _] = shape;
        let logits = move |c: &Context| {
            vec![Input::Tracked(
                Array::random(&[tokens, experts], 1 + 7919 * c.seed).map(|x| f64::from((x * 3.0) as f32)),
            )]
        };
        let name = sizes(&[tokens, experts]);
        for (score, what) in [(Score::Softmax, "softmax"), (Score::Sigmoid, "sigmoid")] {
            cases.op(level, format!("op/router_scores/{what} {name}"), (0.0, 0.0), move |c, _| {
                (RouterScores { score }, logits(c))
            });
        }
        cases.op(level, format!("op/z_loss/{name}"), (0.0, 0.0), move |c, _| (ZLoss { coefficient: 0.1 }, logits(c)));
        for renormalize in [false, true] {
            let what = if renormalize { "renormalized" } else { "as scored" };
            cases.op(level, format!("op/combine_weights/{what} {}", sizes(&shape)), (0.0, 0.0), move |c, _| {
                let [index, ..] = routed(c, shape);
                (CombineWeights { renormalize, scaling: 2.5 }, vec![Input::Tracked(scores(c, shape, 1)), index])
            });
        }
        cases.op(level, format!("op/load_balance/{}", sizes(&shape)), (0.0, 0.0), move |c, _| {
            let [_, counts, ..] = routed(c, shape);
            (LoadBalance { coefficient: 0.7, top_k }, vec![Input::Tracked(scores(c, shape, 1)), counts])
        });
    }
}
