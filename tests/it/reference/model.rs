//! The decoder-only Mixture-of-Experts model on the tape: `Y = X W`, tokens as rows, weights `[in, out]`.

use std::collections::BTreeMap;

use sdmoe::nn::config::{ModelConfig, Score, SharedGate};

use super::tape::{Mat, Tape, Var};

/// Parameters as matrices by name: one matrix, or one per expert; a norm's weight is one row.
pub type Params = BTreeMap<String, Vec<Mat>>;

/// The parameters as nodes of a tape.
pub type Leaves = BTreeMap<String, Vec<Var>>;

/// Token sequences of equal length with their targets, sequence after sequence.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `batch * seq` tokens.
    pub tokens: &'a [u32],
    /// The token that should follow each.
    pub targets: &'a [u32],
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub seq: usize,
}

/// What a layer's router chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// Tokens each expert got.
    pub picks: Vec<usize>,
    /// The least distance, over the tokens, between the last chosen expert's selection value and the next one's.
    /// An implementation in f32 may choose differently where this is near its rounding.
    pub margin: f64,
}

/// A finished forward pass.
pub struct Pass {
    /// The computation.
    pub tape: Tape,
    /// The parameters' nodes.
    pub leaves: Leaves,
    /// `[tokens, vocab]`.
    pub logits: Var,
    /// Mean cross-entropy in nats.
    pub loss: Var,
    /// The auxiliary losses of all layers.
    pub aux: Var,
    /// `loss + aux`, what is differentiated.
    pub total: Var,
    /// By layer.
    pub routed: Vec<Routed>,
}

/// Every parameter's name and shape.
pub fn shapes(c: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
    let (d, e, f, fs) = (c.d_model, c.moe.experts, c.moe.d_expert, c.moe.d_shared);
    let (wide, narrow) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut out = BTreeMap::new();
    out.insert("embed.weight".to_owned(), vec![c.vocab, d]);
    out.insert("final_norm.weight".to_owned(), vec![d]);
    if !c.tied_head {
        out.insert("head.weight".to_owned(), vec![d, c.vocab]);
    }
    for l in 0..c.layers {
        let mut put = |name: &str, shape: &[usize]| out.insert(format!("layers.{l}.{name}"), shape.to_vec());
        put("attn_norm.weight", &[d]);
        put("attn.wq", &[d, wide]);
        put("attn.wk", &[d, narrow]);
        put("attn.wv", &[d, narrow]);
        put("attn.wo", &[wide, d]);
        put("moe_norm.weight", &[d]);
        put("moe.router", &[d, e]);
        put("moe.experts.gate", &[e, d, f]);
        put("moe.experts.up", &[e, d, f]);
        put("moe.experts.down", &[e, f, d]);
        if fs > 0 {
            put("moe.shared.gate", &[d, fs]);
            put("moe.shared.up", &[d, fs]);
            put("moe.shared.down", &[fs, d]);
            if c.moe.shared_gate == SharedGate::Sigmoid {
                put("moe.shared_gate", &[d, 1]);
            }
        }
    }
    out
}

/// `x rsqrt(mean(x^2) + eps) * g`, row by row.
pub fn rms_norm(t: &mut Tape, x: Var, gain: Var, eps: f64) -> Var {
    let width = t.value(x).ncols() as f64;
    let squares = t.mul(x, x);
    let sums = t.row_sums(squares);
    let inverse = t.map(sums, |s| {
        let mean = s / width + eps;
        (mean.powf(-0.5), -0.5 * mean.powf(-1.5) / width)
    });
    let unit = t.times_column(x, inverse);
    t.times_row(unit, gain)
}

/// Turns the pairs `(i, i + hd/2)` of `x: [seq, hd]` by `pos * theta^(-2i/hd)`: `x * cos + (x H) * sin`, where `H` sends
/// the pair `(a, b)` to `(-b, a)`.
fn rope(t: &mut Tape, x: Var, theta: f64) -> Var {
    let (seq, hd) = t.value(x).shape();
    let half = hd / 2;
    let angle = |pos: usize, j: usize| pos as f64 * theta.powf(-2.0 * (j % half) as f64 / hd as f64);
    let cos = t.leaf(Mat::from_fn(seq, hd, |p, j| angle(p, j).cos()));
    let sin = t.leaf(Mat::from_fn(seq, hd, |p, j| angle(p, j).sin()));
    let mut swap = Mat::zeros(hd, hd);
    for i in 0..half {
        swap[(i + half, i)] = -1.0;
        swap[(i, i + half)] = 1.0;
    }
    let swap = t.leaf(swap);
    let turned = t.matmul(x, swap);
    let (kept, crossed) = (t.mul(x, cos), t.mul(turned, sin));
    t.add(kept, crossed)
}

/// Causal grouped-query attention; `weight` finds `wq`, `wk`, `wv` and `wo`.
pub fn attention(t: &mut Tape, c: &ModelConfig, x: Var, seq: usize, weight: impl Fn(&str) -> Var) -> Var {
    let tokens = t.value(x).nrows();
    let (q, k, v) = (t.matmul(x, weight("wq")), t.matmul(x, weight("wk")), t.matmul(x, weight("wv")));
    let hidden = |i, j| if j > i { f64::NEG_INFINITY } else { 0.0 };
    let mask = t.leaf(Mat::from_fn(seq, seq, hidden));
    let mut heads = Vec::new();
    for start in (0..tokens).step_by(seq) {
        for head in 0..c.heads {
            let group = head / (c.heads / c.kv_heads);
            let (own, shared) = ((start, head * c.head_dim), (start, group * c.head_dim));
            let shape = (seq, c.head_dim);
            let (qh, kh, vh) = (t.block(q, own, shape), t.block(k, shared, shape), t.block(v, shared, shape));
            let (qh, kh) = (rope(t, qh, c.rope_theta.into()), rope(t, kh, c.rope_theta.into()));
            let kt = t.transpose(kh);
            let products = t.matmul(qh, kt);
            let scaled = t.scale(products, 1.0 / (c.head_dim as f64).sqrt());
            let masked = t.add(scaled, mask);
            let weights = t.softmax(masked);
            heads.push((t.matmul(weights, vh), own));
        }
    }
    let joined = t.assemble((tokens, c.heads * c.head_dim), &heads);
    t.matmul(joined, weight("wo"))
}

/// `(silu(x W_gate) * (x W_up)) W_down`.
fn expert(t: &mut Tape, x: Var, gate: Var, up: Var, down: Var) -> Var {
    let (g, u) = (t.matmul(x, gate), t.matmul(x, up));
    let s = t.silu(g);
    let hidden = t.mul(s, u);
    t.matmul(hidden, down)
}

/// A 0/1 matrix of each token's `k` experts of highest `score + bias`, ties to the lower index.
fn choose(scores: &Mat, bias: &[f64], k: usize) -> (Mat, Routed) {
    let (tokens, experts) = scores.shape();
    let mut mask = Mat::zeros(tokens, experts);
    let mut routed = Routed { picks: vec![0; experts], margin: f64::INFINITY };
    for token in 0..tokens {
        let value = |e: usize| scores[(token, e)] + bias[e];
        let mut order: Vec<usize> = (0..experts).collect();
        // The sort is stable, so equal values stay in index order.
        order.sort_by(|&a, &b| value(b).partial_cmp(&value(a)).expect("router scores are finite"));
        for &e in &order[..k] {
            mask[(token, e)] = 1.0;
            routed.picks[e] += 1;
        }
        if k < experts {
            routed.margin = routed.margin.min(value(order[k - 1]) - value(order[k]));
        }
    }
    (mask, routed)
}

/// The Mixture-of-Experts layer: its output, its auxiliary loss (unless there is none) and what was chosen. `weights` finds
/// `router`, `experts.gate` and so on.
pub fn moe<'a>(
    t: &mut Tape,
    c: &ModelConfig,
    x: Var,
    bias: &[f64],
    weights: impl Fn(&str) -> &'a [Var],
) -> (Var, Option<Var>, Routed) {
    let m = &c.moe;
    let tokens = t.value(x).nrows();

    let logits = t.matmul(x, weights("router")[0]);
    let scores = match m.score {
        Score::Softmax => t.softmax(logits),
        Score::Sigmoid => t.sigmoid(logits),
    };
    let (mask, routed) = choose(t.value(scores), bias, m.top_k);
    let mask = t.leaf(mask);
    let mut combine = t.mul(scores, mask);
    if m.renormalize {
        let sums = t.row_sums(combine);
        let inverse = t.map(sums, |s| (1.0 / (s + 1e-20), -1.0 / ((s + 1e-20) * (s + 1e-20))));
        combine = t.times_column(combine, inverse);
    }
    let combine = t.scale(combine, m.scaling.into());

    let mut out = t.leaf(Mat::zeros(tokens, c.d_model));
    for e in 0..m.experts {
        let y = expert(t, x, weights("experts.gate")[e], weights("experts.up")[e], weights("experts.down")[e]);
        let w = t.block(combine, (0, e), (tokens, 1));
        let weighted = t.times_column(y, w);
        out = t.add(out, weighted);
    }
    if m.d_shared > 0 {
        let mut y = expert(t, x, weights("shared.gate")[0], weights("shared.up")[0], weights("shared.down")[0]);
        if m.shared_gate == SharedGate::Sigmoid {
            let open = t.matmul(x, weights("shared_gate")[0]);
            let open = t.sigmoid(open);
            y = t.times_column(y, open);
        }
        out = t.add(out, y);
    }

    let mut aux = None;
    if m.balance_loss > 0.0 {
        let slots = (tokens * m.top_k) as f64;
        let shares = t.leaf(Mat::from_fn(m.experts, 1, |e, _| routed.picks[e] as f64 / slots));
        let means = t.column_means(scores);
        let dot = t.matmul(means, shares);
        aux = Some(t.scale(dot, f64::from(m.balance_loss) * m.experts as f64));
    }
    if m.z_loss > 0.0 {
        let lse = t.logsumexp(logits);
        let squares = t.mul(lse, lse);
        let mean = t.column_means(squares);
        let z = t.scale(mean, m.z_loss.into());
        aux = Some(aux.map_or(z, |balance| t.add(balance, z)));
    }
    (out, aux, routed)
}

/// The whole model; `biases` holds each layer's balance state, which only the choice of experts sees.
pub fn forward(c: &ModelConfig, params: &Params, biases: &[Vec<f64>], data: Batch<'_>) -> Pass {
    let tokens = data.batch * data.seq;
    assert_eq!((data.tokens.len(), data.targets.len()), (tokens, tokens), "forward: batch * seq tokens and targets");
    let mut tape = Tape::default();
    let t = &mut tape;
    let leaves: Leaves = params
        .iter()
        .map(|(name, matrices)| (name.clone(), matrices.iter().map(|m| t.leaf(m.clone())).collect()))
        .collect();
    let one = |name: &str| leaves[name][0];

    let ids: Vec<usize> = data.tokens.iter().map(|&id| id as usize).collect();
    let mut x = t.gather_rows(one("embed.weight"), &ids);
    let mut aux = t.leaf(Mat::zeros(1, 1));
    let mut routed = Vec::new();
    for (l, bias) in biases.iter().enumerate() {
        let normed = rms_norm(t, x, one(&format!("layers.{l}.attn_norm.weight")), c.norm_eps.into());
        let mixed = attention(t, c, normed, data.seq, |w| one(&format!("layers.{l}.attn.{w}")));
        x = t.add(x, mixed);
        let normed = rms_norm(t, x, one(&format!("layers.{l}.moe_norm.weight")), c.norm_eps.into());
        let (y, layer_aux, choice) = moe(t, c, normed, bias, |w| &leaves[&format!("layers.{l}.moe.{w}")]);
        x = t.add(x, y);
        if let Some(layer_aux) = layer_aux {
            aux = t.add(aux, layer_aux);
        }
        routed.push(choice);
    }

    let hidden = rms_norm(t, x, one("final_norm.weight"), c.norm_eps.into());
    let head = if c.tied_head { t.transpose(one("embed.weight")) } else { one("head.weight") };
    let logits = t.matmul(hidden, head);
    // Cross-entropy of a token: logsumexp(logits) minus the target's logit, which a one-hot row picks.
    let hot = Mat::from_fn(tokens, c.vocab, |i, j| if data.targets[i] as usize == j { -1.0 } else { 0.0 });
    let hot = t.leaf(hot);
    let picked = t.mul(logits, hot);
    let (lse, minus_target) = (t.logsumexp(logits), t.row_sums(picked));
    let losses = t.add(lse, minus_target);
    let loss = t.column_means(losses);
    let total = t.add(loss, aux);
    Pass { tape, leaves, logits, loss, aux, total, routed }
}
