//! Ops on rows: sums, norms, rotary positions, gates, embedding, cross-entropy.

use super::sizes;
use crate::autograd::Array;
use crate::autograd::Op;
use crate::autograd::check::{Input, Tolerance};
use crate::error::Result;
use crate::gpu::Tier;
use crate::ops::{
    Add, Bias, Clamp, Concat, CrossEntropy, Embedding, Multiply, Pairing, RepeatRows, RmsNorm, Rope, RotaryTable,
    Scale, SigmoidGate, Slice, SwiGlu,
};
use crate::verify::Level::{self, Quick, Usual};
use crate::verify::context::{Case, Context, Needs, indices};

/// Cases of ops, all stored in f32 or all activations in f16.
pub(super) struct Cases {
    pub all: Vec<Case>,
    tier: Tier,
    pub f16: bool,
}

impl Cases {
    pub fn new(tier: Tier, f16: bool) -> Self {
        Self { all: Vec::new(), tier, f16 }
    }

    /// A case of an op that `make` gives with its inputs; `roundings` are those of f16 results, forward and backward.
    pub fn op<T: Op + 'static>(
        &mut self,
        level: Level,
        name: String,
        roundings: (f64, f64),
        make: impl FnOnce(&Context, &Kind) -> (T, Vec<Input>) + Send + 'static,
    ) {
        self.fallible_op(level, name, roundings, |context, kind| Ok(make(context, kind)));
    }

    /// As [`Cases::op`], of an op that has a tensor of its own.
    fn fallible_op<T: Op + 'static>(
        &mut self,
        level: Level,
        name: String,
        roundings: (f64, f64),
        make: impl FnOnce(&Context, &Kind) -> Result<(T, Vec<Input>)> + Send + 'static,
    ) {
        let kind = Kind { f16: self.f16 };
        let case = Case::new(level, name, async move |context| {
            let (op, inputs) = make(context, &kind)?;
            let tolerance = if kind.f16 { Tolerance::half(roundings.0, roundings.1) } else { Tolerance::default() };
            context.op(op, &inputs, tolerance, 3).await
        });
        self.all.push(if self.f16 {
            case.needs(Needs::F16).variant(format!("{} f16", self.tier.name()))
        } else {
            case
        });
    }
}

/// How inputs are stored.
pub(super) struct Kind {
    pub f16: bool,
}

impl Kind {
    /// An activation of random numbers.
    pub fn random(&self, context: &Context, shape: &[usize], seed: u64) -> Input {
        let x = Array::random(shape, seed + 7919 * context.seed);
        if self.f16 { Input::Half(x) } else { Input::Tracked(x) }
    }

    /// A weight matrix of random numbers.
    pub fn weight(&self, context: &Context, shape: &[usize], seed: u64) -> Input {
        let x = Array::random(shape, seed + 7919 * context.seed);
        if self.f16 { Input::HalfWeight(x) } else { Input::Tracked(x) }
    }

    /// An input that is f32 in mixed precision too.
    pub fn single(&self, context: &Context, shape: &[usize], seed: u64) -> Input {
        Input::Tracked(Array::random(shape, seed + 7919 * context.seed))
    }
}

/// All of them.
pub(super) fn cases(tier: Tier, f16: bool) -> Vec<Case> {
    let mut cases = Cases::new(tier, f16);
    let shapes = [
        (Usual, [1, 1]),
        (Usual, [1, 4]),
        (Usual, [3, 2]),
        (Quick, [7, 33]),
        (Quick, [65, 128]),
        (Usual, [131, 6]),
        (Usual, [67, 256]),
        (Usual, [2, 1000]),
    ];
    for (level, shape) in shapes {
        cases.op(level, format!("op/add/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            (Add, vec![kind.random(c, &shape, 1), kind.random(c, &shape, 2)])
        });
    }
    for (level, shape) in shapes {
        cases.op(level, format!("op/rms_norm/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            // A row of one element is normed to its sign: but for eps its gradient is the difference of equal numbers.
            let eps = if shape[1] == 1 { 0.5 } else { 1e-5 };
            (RmsNorm { eps }, vec![kind.random(c, &shape, 1), kind.single(c, &shape[1..], 2)])
        });
    }
    for (level, shape) in shapes {
        cases.op(level, format!("op/swiglu/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            (SwiGlu, vec![kind.random(c, &shape, 1), kind.random(c, &shape, 2)])
        });
    }
    for (level, shape) in shapes {
        cases.op(level, format!("op/sigmoid_gate/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            (SigmoidGate, vec![kind.random(c, &shape, 1), kind.single(c, &[shape[0], 1], 2)])
        });
    }
    for (level, shape) in shapes {
        cases.op(level, format!("op/multiply/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            (Multiply, vec![kind.random(c, &shape, 1), kind.random(c, &shape, 2)])
        });
    }
    for (level, shape) in shapes {
        cases.op(level, format!("op/scale/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            (Scale { factor: -1.7 }, vec![kind.random(c, &shape, 1)])
        });
    }
    for (level, shape) in shapes {
        cases.op(level, format!("op/bias/{}", sizes(&shape)), (1.0, 0.0), move |c, kind| {
            (Bias, vec![kind.random(c, &shape, 1), kind.single(c, &shape[1..], 2)])
        });
    }
    for (level, shape) in shapes {
        cases.op(level, format!("op/clamp/{}", sizes(&shape)), (1.0, 1.0), move |c, kind| {
            // None of them is near the limit, where differences of the reference say nothing.
            let off = |x: &f64| (16.0 * x).floor() / 16.0 + 1.0 / 32.0;
            let input = match kind.random(c, &shape, 1) {
                Input::Half(x) => Input::Half(x.map(off)),
                Input::Tracked(x) => Input::Tracked(x.map(off)),
                other => other,
            };
            (Clamp { limit: 0.75 }, vec![input])
        });
    }
    // Copies are exact.
    for (level, shape, start, width) in [
        (Usual, [1, 1], 0, 1),
        (Quick, [7, 33], 32, 1),
        (Usual, [5, 24], 8, 16),
        (Usual, [31, 12], 4, 7),
        (Quick, [65, 128], 64, 64),
    ] {
        let name = format!("op/slice/{} from {start} {width}", sizes(&shape));
        cases.op(level, name, (0.0, 0.0), move |c, kind| (Slice { start, width }, vec![kind.random(c, &shape, 1)]));
    }
    for (level, rows, widths) in
        [(Usual, 1, [1, 1, 1]), (Quick, 67, [3, 4, 5]), (Usual, 5, [16, 8, 8]), (Quick, 33, [128, 64, 4])]
    {
        let name = format!("op/concat/{rows} of {}", sizes(&widths));
        cases.op(level, name, (0.0, 0.0), move |c, kind| {
            (Concat, widths.map(|width| kind.random(c, &[rows, width], width as u64)).to_vec())
        });
    }
    for (level, [rows, width, times]) in
        [(Usual, [1, 1, 1]), (Quick, [7, 5, 2]), (Usual, [5, 8, 16]), (Usual, [131, 64, 3])]
    {
        cases.op(level, format!("op/repeat_rows/{}", sizes(&[rows, width, times])), (0.0, 1.0), move |c, kind| {
            (RepeatRows { times }, vec![kind.random(c, &[rows, width], 1)])
        });
    }
    for (level, [batch, seq, heads, head_dim], theta) in [
        (Usual, [1, 1, 1, 2], 1e4),
        (Quick, [3, 2, 1, 6], 1e4),
        (Quick, [2, 31, 3, 8], 1e6),
        (Usual, [1, 33, 6, 32], 1e4),
        (Usual, [2, 65, 1, 48], 1.0),
        (Usual, [1, 5, 3, 128], 1e4),
        (Usual, [1, 3, 2, 256], 1e6),
    ] {
        for pairing in [Pairing::Halves, Pairing::Neighbours] {
            let kind = if pairing == Pairing::Halves { "rope" } else { "rope of neighbours" };
            let name = format!("op/{kind}/{}", sizes(&[batch, seq, heads, head_dim]));
            cases.fallible_op(level, name, (1.0, 1.0), move |c, kind| {
                let table = RotaryTable::new(&c.gpu, head_dim, theta)?;
                // Positions of a sequence that goes on, and YaRN's factor.
                let (first, scaling) = if pairing == Pairing::Halves { (0, 1.0) } else { (4001, 1.3) };
                let op = Rope { pairing, first, scaling, ..Rope::new(&table, heads, seq) };
                Ok((op, vec![kind.random(c, &[batch * seq, heads * head_dim], 1)]))
            });
        }
    }
    for (level, [vocabulary, width, tokens]) in
        [(Usual, [1, 1, 1]), (Quick, [5, 3, 7]), (Usual, [17, 64, 1]), (Quick, [256, 32, 101])]
    {
        let name = format!("op/embedding/{}", sizes(&[vocabulary, width, tokens]));
        // A copy: exact; the gradient is an f32 sum of exact numbers.
        cases.op(level, name, (0.0, 0.0), move |c, kind| {
            let tokens = Input::Index(indices(tokens, vocabulary, 1));
            (Embedding, vec![kind.weight(c, &[vocabulary, width], 1), tokens])
        });
    }
    for (level, [tokens, vocabulary]) in
        [(Usual, [1, 5]), (Quick, [7, 256]), (Usual, [131, 5]), (Usual, [13, 1001]), (Usual, [3, 4099])]
    {
        let name = format!("op/cross_entropy/{}", sizes(&[tokens, vocabulary]));
        // The loss is f32; the gradient is rounded as softmax - onehot and again with its factor.
        cases.op(level, name, (0.0, 2.0), move |c, kind| {
            let targets = Input::Index(indices(tokens, vocabulary, 2));
            (CrossEntropy, vec![kind.random(c, &[tokens, vocabulary], 1), targets])
        });
    }
    if !f16 {
        cases.op(Quick, "op/cross_entropy/large logits".into(), (0.0, 0.0), |c, _| {
            let x = Array::random(&[33, 100], 5 + c.seed).map(|x| f64::from((40.0 * x + 300.0) as f32));
            (CrossEntropy, vec![Input::Tracked(x), Input::Index(Array::from_fn(&[33], |_| 50.0))])
        });
        // More than a thread takes of one row.
        cases.op(Usual, "op/cross_entropy/2x120008".into(), (0.0, 0.0), |c, kind| {
            (CrossEntropy, vec![kind.random(c, &[2, 120_008], 1), Input::Index(indices(2, 120_008, 2))])
        });
    }
    cases.all
}
