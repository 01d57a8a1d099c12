//! The f64 reference held against what does not depend on it: central differences, plain loops, and algebra.

use std::collections::BTreeMap;

use crate::reference::tape::{Mat, Tape, Var};
use crate::reference::{Adam, Array, Arrays, Random, Trainer, random_batch, random_params};
use sdmoe::nn::config::{ModelConfig, MoeConfig, Score, SharedGate, SpectralConfig};

/// Half the distance of the two evaluations. The rounding of a loss near 1 over it is 1e-11, the truncation 1e-10 times
/// the third derivative.
const STEP: f64 = 1e-5;

fn tiny() -> ModelConfig {
    with!(ModelConfig {
        vocab: 11,
        d_model: 8,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        rope_theta: 100.0,
        norm_eps: 1e-6,
        tied_head: true,
        moe: with!(MoeConfig { experts: 4, top_k: 2, d_expert: 6, d_shared: 5, ..MoeConfig::default() }),
        ..ModelConfig::default()
    })
}

fn with_moe(change: impl FnOnce(&mut MoeConfig)) -> ModelConfig {
    let mut model = tiny();
    change(&mut model.moe);
    model
}

fn plain(model: &ModelConfig, params: Arrays) -> Trainer {
    let off = with!(SpectralConfig { enabled: false, ..SpectralConfig::default() });
    Trainer::new(model.clone(), off, Adam::default(), params, BTreeMap::new())
}

/// Contracts `op`'s output with fixed random weights and compares the gradient of every entry of every input.
fn check_op(name: &str, inputs: &[Mat], op: impl Fn(&mut Tape, &[Var]) -> Var) {
    let run = |inputs: &[Mat]| {
        let mut tape = Tape::default();
        let vars: Vec<Var> = inputs.iter().map(|m| tape.leaf(m.clone())).collect();
        let out = op(&mut tape, &vars);
        let (rows, cols) = tape.value(out).shape();
        let weights = tape.leaf(Random::new(99).matrix(rows, cols));
        let weighted = tape.mul(out, weights);
        let sums = tape.row_sums(weighted);
        let means = tape.column_means(sums);
        let value = tape.scalar(means);
        let grads = tape.backward(means);
        (value, vars.iter().map(|&v| grads.of(v).clone()).collect::<Vec<_>>())
    };
    let (_, grads) = run(inputs);
    for (which, grad) in grads.iter().enumerate() {
        for entry in 0..grad.len() {
            let moved = |by: f64| {
                let mut inputs = inputs.to_vec();
                inputs[which][entry] += by;
                run(&inputs).0
            };
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let error = (grad[entry] - expected).abs();
            assert!(error <= 1e-8, "{name}: input {which} entry {entry}: tape {}, differences {expected}", grad[entry]);
        }
    }
}

#[test]
fn every_tape_operation_agrees_with_central_differences() {
    let mut r = Random::new(1);
    let (a, b, c) = (r.matrix(3, 4), r.matrix(4, 5), r.matrix(3, 4));
    let (row, column) = (r.matrix(1, 4), r.matrix(3, 1));
    check_op("matmul", &[a.clone(), b], |t, v| t.matmul(v[0], v[1]));
    check_op("transpose", std::slice::from_ref(&a), |t, v| t.transpose(v[0]));
    check_op("add", &[a.clone(), c.clone()], |t, v| t.add(v[0], v[1]));
    check_op("mul", &[a.clone(), c], |t, v| t.mul(v[0], v[1]));
    check_op("mul with itself", std::slice::from_ref(&a), |t, v| t.mul(v[0], v[0]));
    check_op("map", std::slice::from_ref(&a), |t, v| t.map(v[0], |x| (x.powi(3), 3.0 * x * x)));
    check_op("scale", std::slice::from_ref(&a), |t, v| t.scale(v[0], -1.5));
    check_op("sigmoid", std::slice::from_ref(&a), |t, v| t.sigmoid(v[0]));
    check_op("silu", std::slice::from_ref(&a), |t, v| t.silu(v[0]));
    check_op("times_column", &[a.clone(), column], |t, v| t.times_column(v[0], v[1]));
    check_op("times_row", &[a.clone(), row.clone()], |t, v| t.times_row(v[0], v[1]));
    check_op("row_sums", std::slice::from_ref(&a), |t, v| t.row_sums(v[0]));
    check_op("column_means", std::slice::from_ref(&a), |t, v| t.column_means(v[0]));
    check_op("softmax", std::slice::from_ref(&a), |t, v| t.softmax(v[0]));
    check_op("masked softmax", std::slice::from_ref(&a), |t, v| {
        let mask = t.leaf(Mat::from_fn(3, 4, |i, j| if j > i { f64::NEG_INFINITY } else { 0.0 }));
        let masked = t.add(v[0], mask);
        t.softmax(masked)
    });
    check_op("logsumexp", std::slice::from_ref(&a), |t, v| t.logsumexp(v[0]));
    check_op("block", std::slice::from_ref(&a), |t, v| t.block(v[0], (1, 1), (2, 3)));
    check_op("assemble", &[a.clone(), row.clone()], |t, v| t.assemble((5, 6), &[(v[0], (1, 2)), (v[1], (4, 0))]));
    check_op("gather_rows", std::slice::from_ref(&a), |t, v| t.gather_rows(v[0], &[2, 0, 2, 2]));
    check_op("rms_norm", &[a, row], |t, v| crate::reference::rms_norm(t, v[0], v[1], 1e-3));
}

/// Compares three random entries of every parameter's gradient.
fn check_model(what: &str, model: &ModelConfig, seed: u64) {
    model.validate().unwrap();
    let (batch, seq) = (2, 5);
    let (tokens, targets) = random_batch(model.vocab, batch * seq, seed + 1);
    let params = random_params(model, seed);
    let biases = vec![(0..model.moe.experts).map(|e| 0.02 * e as f64).collect(); model.layers];
    let total = |params: Arrays| {
        let mut trainer = plain(model, params);
        trainer.set_biases(biases.clone());
        let (loss, aux) = trainer.losses(&tokens, &targets, batch, seq);
        loss + aux
    };
    let mut trainer = plain(model, params.clone());
    trainer.set_biases(biases.clone());
    let grads = trainer.gradients(&tokens, &targets, batch, seq);
    assert_eq!(grads.keys().collect::<Vec<_>>(), params.keys().collect::<Vec<_>>());
    let mut random = Random::new(seed + 2);
    for (name, grad) in &grads {
        for _ in 0..3 {
            let entry = random.below(grad.data.len());
            let moved = |by: f64| {
                let mut params = params.clone();
                params.get_mut(name).unwrap().data[entry] += by;
                total(params)
            };
            let (got, expected) = (grad.data[entry], (moved(STEP) - moved(-STEP)) / (2.0 * STEP));
            let error = (got - expected).abs();
            assert!(
                error <= 2e-8 + 1e-6 * expected.abs(),
                "{what}: {name} entry {entry}: tape {got}, differences {expected}, seed {seed}"
            );
        }
        let zero_is_right = model.moe.top_k == 1 && name.contains("router");
        assert!(grad.norm() > 1e-6 || zero_is_right, "{what}: {name} gets no gradient");
    }
}

#[test]
fn the_models_gradient_agrees_with_central_differences_in_every_configuration() {
    check_model("defaults", &tiny(), 10);
    check_model("sigmoid score", &with_moe(|m| m.score = Score::Sigmoid), 20);
    check_model("not renormalized, scaled", &with_moe(|m| (m.renormalize, m.scaling) = (false, 2.5)), 30);
    let deepseek = with_moe(|m| (m.score, m.scaling, m.balance_loss, m.z_loss) = (Score::Sigmoid, 1.5, 0.0, 0.0));
    check_model("sigmoid score, scaled, no auxiliary loss", &deepseek, 40);
    check_model("no shared expert", &with_moe(|m| m.d_shared = 0), 50);
    check_model("gated shared expert", &with_moe(|m| m.shared_gate = SharedGate::Sigmoid), 60);
    check_model("strong balance loss", &with_moe(|m| (m.balance_loss, m.z_loss) = (3.0, 0.0)), 70);
    check_model("strong z-loss", &with_moe(|m| (m.balance_loss, m.z_loss) = (0.0, 3.0)), 80);
    check_model("soft routing", &with_moe(|m| m.top_k = 4), 90);
    check_model("top-1, not renormalized", &with_moe(|m| (m.top_k, m.renormalize) = (1, false)), 100);
    check_model("untied head", &with!(ModelConfig { tied_head: false, ..tiny() }), 110);
    check_model("one key/value head", &with!(ModelConfig { kv_heads: 1, ..tiny() }), 120);
    check_model("as many key/value heads", &with!(ModelConfig { kv_heads: 4, head_dim: 2, ..tiny() }), 130);
}

#[test]
fn attention_is_what_plain_loops_compute() {
    let c = tiny();
    let (batch, seq, d, hd, half) = (2, 5, c.d_model, c.head_dim, c.head_dim / 2);
    let mut r = Random::new(5);
    let narrow = c.kv_heads * hd;
    let x = r.matrix(batch * seq, d);
    let w = [("wq", r.matrix(d, c.heads * hd)), ("wk", r.matrix(d, narrow)), ("wv", r.matrix(d, narrow))];
    let wo = r.matrix(c.heads * hd, d);

    // The turned pair (i, i + hd/2) as one complex number times e^(i angle).
    let turned = |y: &Mat, row: usize, head: usize| {
        let mut out = vec![0.0; hd];
        for i in 0..half {
            let angle = (row % seq) as f64 / f64::from(c.rope_theta).powf(2.0 * i as f64 / hd as f64);
            let (a, b) = (y[(row, head * hd + i)], y[(row, head * hd + i + half)]);
            out[i] = a * angle.cos() - b * angle.sin();
            out[i + half] = a * angle.sin() + b * angle.cos();
        }
        out
    };
    let (q, k, v) = (&x * &w[0].1, &x * &w[1].1, &x * &w[2].1);
    let mut joined = Mat::zeros(batch * seq, c.heads * hd);
    for row in 0..batch * seq {
        for head in 0..c.heads {
            let kv = head / 2;
            let own = turned(&q, row, head);
            let seen = row / seq * seq..=row;
            let dot = |j: usize| turned(&k, j, kv).iter().zip(&own).map(|(a, b)| a * b).sum::<f64>();
            let weights: Vec<f64> = seen.clone().map(|j| (dot(j) / (hd as f64).sqrt()).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for i in 0..hd {
                let mixed: f64 = seen.clone().zip(&weights).map(|(j, p)| p * v[(j, kv * hd + i)]).sum();
                joined[(row, head * hd + i)] = mixed / sum;
            }
        }
    }
    let expected = joined * &wo;

    let mut t = Tape::default();
    let input = t.leaf(x);
    let leaves: BTreeMap<&str, Var> = w.iter().cloned().chain([("wo", wo)]).map(|(n, m)| (n, t.leaf(m))).collect();
    let out = crate::reference::attention(&mut t, &c, input, seq, |name| leaves[name]);
    assert!((t.value(out) - expected).abs().max() < 1e-12);
}

#[test]
fn the_expert_layer_is_what_plain_loops_compute() {
    let c = with_moe(|m| {
        (m.score, m.scaling, m.shared_gate) = (Score::Sigmoid, 1.5, SharedGate::Sigmoid);
        (m.balance_loss, m.z_loss) = (0.5, 0.25);
    });
    let (d, f, fs, tokens) = (c.d_model, c.moe.d_expert, c.moe.d_shared, 7);
    let bias = [0.3, 0.0, -0.2, 0.1];
    let mut r = Random::new(6);
    let x = r.matrix(tokens, d);
    let mut stack = |count, rows, cols| (0..count).map(|_| r.matrix(rows, cols) * 0.5).collect::<Vec<_>>();
    let weights: BTreeMap<&str, Vec<Mat>> = BTreeMap::from([
        ("router", stack(1, d, 4)),
        ("experts.gate", stack(4, d, f)),
        ("experts.up", stack(4, d, f)),
        ("experts.down", stack(4, f, d)),
        ("shared.gate", stack(1, d, fs)),
        ("shared.up", stack(1, d, fs)),
        ("shared.down", stack(1, fs, d)),
        ("shared_gate", stack(1, d, 1)),
    ]);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let swiglu = |x: &Mat, kind: &str, e: usize| {
        let find = |w: &str| &weights[format!("{kind}.{w}").as_str()][e];
        let hidden = (x * find("gate")).zip_map(&(x * find("up")), |g, u| g * sigmoid(g) * u);
        hidden * find("down")
    };

    let (mut expected, mut picks, mut mean, mut z) = (Mat::zeros(tokens, d), [0; 4], [0.0; 4], 0.0);
    for t in 0..tokens {
        let row = x.rows(t, 1).into_owned();
        let logits = &row * &weights["router"][0];
        let score: Vec<f64> = logits.iter().map(|&l| sigmoid(l)).collect();
        let best = |skip: usize| {
            let key = |&e: &usize| score[e] + bias[e];
            (0..4).filter(|&e| e != skip).max_by(|a, b| key(a).total_cmp(&key(b))).unwrap()
        };
        let first = best(usize::MAX);
        let second = best(first);
        let mut y = swiglu(&row, "shared", 0) * sigmoid((&row * &weights["shared_gate"][0])[0]);
        for e in [first, second] {
            y += swiglu(&row, "experts", e) * (1.5 * score[e] / (score[first] + score[second]));
            picks[e] += 1;
        }
        expected.set_row(t, &y.row(0));
        (0..4).for_each(|e| mean[e] += score[e] / tokens as f64);
        z += logits.iter().map(|l| l.exp()).sum::<f64>().ln().powi(2) / tokens as f64;
    }
    let balance: f64 = (0..4).map(|e| 4.0 * picks[e] as f64 / (2 * tokens) as f64 * mean[e]).sum();

    let mut t = Tape::default();
    let input = t.leaf(x.clone());
    let leaves: BTreeMap<&str, Vec<Var>> =
        weights.iter().map(|(&name, w)| (name, w.iter().map(|m| t.leaf(m.clone())).collect())).collect();
    let (out, aux, routed) = crate::reference::moe(&mut t, &c, input, &bias, |name| &leaves[name]);
    assert_eq!(routed.picks, picks);
    assert!((t.value(out) - expected).abs().max() < 1e-12);
    assert!((t.scalar(aux.unwrap()) - (0.5 * balance + 0.25 * z)).abs() < 1e-12);
}

#[test]
fn a_later_token_or_another_sequence_does_not_change_a_tokens_logits() {
    let model = tiny();
    let trainer = plain(&model, random_params(&model, 7));
    let (mut tokens, _) = random_batch(model.vocab, 10, 8);
    let before = trainer.logits(&tokens, 2, 5);
    // The fourth token of the first sequence of five.
    tokens[3] = (tokens[3] + 1) % model.vocab as u32;
    let after = trainer.logits(&tokens, 2, 5);
    for (row, (a, b)) in before.data.chunks(model.vocab).zip(after.data.chunks(model.vocab)).enumerate() {
        assert_eq!(a != b, row == 3 || row == 4, "row {row}");
    }
}

#[test]
fn equal_scores_go_to_the_lower_experts_and_zero_weights_cost_ln_vocab() {
    let model = tiny();
    let params =
        crate::reference::shapes(&model).into_iter().map(|(name, shape)| (name, Array::zeros(shape))).collect();
    let (tokens, targets) = random_batch(model.vocab, 6, 9);
    let mut trainer = plain(&model, params);
    let report = trainer.step(&tokens, &targets, 1, 6, 0.0);
    assert!(report.routed.iter().all(|r| r.picks == [6, 6, 0, 0] && r.margin == 0.0));
    assert!((report.loss - (model.vocab as f64).ln()).abs() < 1e-14);
}
