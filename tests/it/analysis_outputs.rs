//! What `sdmoe analyze --data` says of experts' outputs and of each token's choice, against the same figures in f64 on
//! the host.

use std::path::Path;

use crate::common::place::Place;
use crate::common::{download, gpu};
use crate::fixtures_support::root;
use pollster::block_on;
use sdmoe::analysis::observe::observe;
use sdmoe::analysis::positions::spread;
use sdmoe::analysis::record::{Analysis, Outputs};
use sdmoe::data::sources::{self, SourceWindows};
use sdmoe::nn::config::{ExpertMatrix, Preset, Score, SharedGate};
use sdmoe::nn::model::Model;
use sdmoe::tensor::Tensor;
use sdmoe::train::config::RunConfig;
use sdmoe::train::pretrained::Pretrained;

const TOKENS: usize = 256;

type Rows = Vec<Vec<f64>>;

fn rows(x: &Tensor, columns: usize) -> Rows {
    download(x).chunks(columns).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

/// `x W` of one row, W by rows.
fn times(x: &[f64], w: &[Vec<f64>]) -> Vec<f64> {
    (0..w[0].len()).map(|j| x.iter().zip(w).map(|(x, row)| x * row[j]).sum()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Gate, up and down of one expert.
struct Expert([Rows; 3]);

impl Expert {
    fn output(&self, x: &[f64]) -> Vec<f64> {
        let Expert([gate, up, down]) = self;
        let (g, u) = (times(x, gate), times(x, up));
        times(&g.iter().zip(u).map(|(g, u)| g * sigmoid(*g) * u).collect::<Vec<_>>(), down)
    }
}

/// The experts and the shared one of a layer.
fn experts(model: &Model, layer: usize) -> (Vec<Expert>, Option<Expert>, Option<Rows>) {
    let c = model.config();
    let (d, f) = (c.d_model, c.moe.d_expert);
    let banks = ExpertMatrix::ALL.map(|m| {
        let columns = if m == ExpertMatrix::Down { d } else { f };
        let all = rows(model.experts(layer, m).unwrap(), columns);
        all.chunks(all.len() / c.moe.experts).map(<[_]>::to_vec).collect::<Vec<Rows>>()
    });
    let routed = (0..c.moe.experts).map(|e| Expert([0, 1, 2].map(|m| banks[m][e].clone()))).collect();
    let named = |name: &str, columns: usize| {
        let name = format!("layers.{layer}.moe.{name}");
        model.params().iter().find(|p| p.name == name).map(|p| rows(&p.value, columns))
    };
    let shared = [("shared.gate", c.moe.d_shared), ("shared.up", c.moe.d_shared), ("shared.down", d)];
    let shared = shared.map(|(name, columns)| named(name, columns));
    let shared = shared.iter().all(Option::is_some).then(|| Expert(shared.map(Option::unwrap)));
    (routed, shared, named("shared_gate", 1))
}

fn close(what: &str, got: Option<f64>, want: f64, tolerance: f64) {
    let got = got.unwrap_or_else(|| panic!("{what}: none, {want} in f64"));
    assert!((got - want).abs() <= tolerance * want.abs().max(1e-3), "{what}: {got}, {want} in f64");
}

/// Sample deviation, and mean.
fn deviation(x: &[f64]) -> (f64, f64) {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    ((x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (x.len() - 1) as f64).sqrt(), mean)
}

/// Compares the record of the model at `path` and the trace with what f64 gives from each layer's input.
fn holds(place: &Place, path: &Path, out: &str, seq: usize) {
    let gpu = gpu();
    let model = Pretrained::open(path).unwrap().load(&gpu).unwrap();
    let sources = sources::read(&[place.path("text")]).unwrap();
    let windows: SourceWindows = sources::windows(&sources, TOKENS.div_ceil(seq), seq).unwrap();
    let seen = block_on(observe(&gpu, &model, seq, &windows, 0)).unwrap();
    let found: Analysis = serde_json::from_str(&place.read(&format!("{out}/analysis.json"))).unwrap();
    let (c, k) = (model.config(), model.config().moe.top_k);
    let layers = c.moe_layers();
    assert_eq!(found.outputs.iter().map(|o| o.layer).collect::<Vec<_>>(), layers);

    let table = place.read(&format!("{out}.csv"));
    let mut lines = table.lines();
    let names = |what: &'static str| (1..=k).map(move |j| format!("{what}_{j}"));
    let head: Vec<String> = names("expert").chain(names("weight")).collect();
    assert_eq!(lines.next().unwrap(), format!("sequence,offset,token,layer,{}", head.join(",")));
    let traced: Vec<Vec<f64>> = lines.map(|l| l.split(',').map(|x| x.parse().unwrap()).collect()).collect();
    assert_eq!(traced.len(), TOKENS * layers.len(), "a line for each token and layer");

    for (place, (outputs, &layer)) in found.outputs.iter().zip(&layers).enumerate() {
        let x: Rows = seen.layers[layer].x.chunks(c.d_model).map(|r| r.iter().map(|&x| x.into()).collect()).collect();
        let (routed, shared, gate) = experts(&model, layer);
        let router = rows(model.router(layer).unwrap(), c.moe.experts);
        let (mut of_expert, mut products) = (vec![Vec::new(); c.moe.experts], Vec::new());
        let (mut energy, mut shared_energy) = (0.0, 0.0);
        for (t, x) in x.iter().enumerate() {
            let line = &traced[t * layers.len() + place];
            let token = windows.batch.tokens[t];
            assert_eq!(line[..4], [(t / seq) as f64, (t % seq) as f64, token.into(), layer as f64]);
            let chosen: Vec<usize> = line[4..4 + k].iter().map(|e| *e as usize).collect();
            let logits = times(x, &router);
            let highest = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
            let score = |e: usize| match c.moe.score {
                Score::Softmax => (logits[e] - highest).exp() / sum,
                Score::Sigmoid => sigmoid(logits[e]),
            };
            if !c.moe.biases_choice() {
                let mut order: Vec<usize> = (0..c.moe.experts).collect();
                order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
                assert_eq!(chosen, order[..k], "layer {layer}, token {t}");
            }
            let total: f64 = if c.moe.renormalize { chosen.iter().map(|&e| score(e)).sum() } else { 1.0 };
            let mut sum = vec![0.0; c.d_model];
            for (j, &e) in chosen.iter().enumerate() {
                let (weight, y) = (score(e) / total * f64::from(c.moe.scaling), routed[e].output(x));
                close("traced weight", Some(line[4 + k + j]), weight, 1e-4);
                sum.iter_mut().zip(&y).for_each(|(sum, y)| *sum += weight * y);
                of_expert[e].push((weight, norm(&y)));
                products.push(weight * norm(&y));
            }
            energy += dot(&sum, &sum) / TOKENS as f64;
            if let Some(shared) = &shared {
                let open = gate.as_ref().map_or(1.0, |g| sigmoid(times(x, g)[0]));
                shared_energy += (open * norm(&shared.output(x))).powi(2) / TOKENS as f64;
            }
        }
        let name = |what: &str| format!("{}, layer {layer}, {what}", path.display());
        let mut saliencies = Vec::new();
        for (e, of) in of_expert.iter().enumerate() {
            let n = of.len() as f64;
            assert_eq!(outputs.tokens[e], of.len());
            if of.is_empty() {
                assert_eq!((outputs.saliency[e], outputs.norm[e], outputs.weight[e]), (None, None, None));
                continue;
            }
            let saliency = of.iter().map(|(w, y)| w * y).sum::<f64>() / n;
            saliencies.push(saliency);
            close(&name("saliency"), outputs.saliency[e], saliency, 1e-4);
            close(&name("norm"), outputs.norm[e], of.iter().map(|p| p.1).sum::<f64>() / n, 1e-4);
            close(&name("weight"), outputs.weight[e], of.iter().map(|p| p.0).sum::<f64>() / n, 1e-4);
        }
        let (spread_of_products, mean) = deviation(&products);
        close(&name("mean saliency"), outputs.null_saliency, mean, 1e-4);
        close(&name("spread"), outputs.saliency_spread, deviation(&saliencies).0, 1e-3);
        let inverse = of_expert.iter().filter(|of| !of.is_empty()).map(|of| 1.0 / of.len() as f64).sum::<f64>();
        let dealt = spread_of_products * (inverse / saliencies.len() as f64).sqrt();
        close(&name("spread by chance"), outputs.null_saliency_spread, dealt, 1e-4);
        close(&name("energy"), outputs.routed_energy, energy, 1e-4);
        close(&name("shared energy"), outputs.shared_energy, shared_energy, 1e-4);
        close(&name("share"), outputs.shared_share, shared_energy / (energy + shared_energy), 1e-4);
        let units = c.moe.d_shared as f64 / (c.moe.d_shared + k * c.moe.d_expert) as f64;
        close(&name("share of units"), outputs.null_shared_share, units, 1e-12);
        cosines_hold(outputs, &routed, &x, spread(windows.source.len(), seq, 256, 0));

        let columns: Rows = (0..c.moe.experts).map(|e| router.iter().map(|row| row[e]).collect()).collect();
        let matrix = nalgebra::DMatrix::from_fn(c.d_model, c.moe.experts, |i, j| columns[j][i]);
        let s = matrix.svd(false, false).singular_values;
        let rank = s.iter().map(|s| s * s).sum::<f64>() / s[0].powi(2);
        let gates = found.gates.iter().find(|g| g.layer == layer).unwrap();
        close(&name("stable rank"), gates.stable_rank, rank, 1e-5);
        let (null, control) = (gates.stable_rank_null.unwrap(), gates.stable_rank_control.unwrap());
        assert!((control / null - 1.0).abs() < 0.4, "a small Gaussian router: {control}, {null}");
    }
}

fn cosines_hold(outputs: &Outputs, routed: &[Expert], x: &Rows, tokens: Vec<usize>) {
    assert_eq!(outputs.compared, tokens.len());
    let y: Vec<Rows> = routed.iter().map(|e| tokens.iter().map(|&t| e.output(&x[t])).collect()).collect();
    let mut pairs = Vec::new();
    for (a, of_a) in y.iter().enumerate() {
        for (b, of_b) in y.iter().enumerate() {
            let all = of_a.iter().zip(of_b).map(|(a, b)| dot(a, b) / (norm(a) * norm(b)));
            let mean = all.sum::<f64>() / tokens.len() as f64;
            let got = outputs.cosine[a][b].unwrap();
            assert!((got - mean).abs() < 1e-5, "experts {a}, {b}: {got}, {mean} in f64");
            if a < b {
                pairs.push(mean);
            }
        }
    }
    let (spread, mean) = deviation(&pairs);
    assert!((outputs.mean_cosine.unwrap() - mean).abs() < 1e-5);
    assert!((outputs.cosine_spread.unwrap() - spread).abs() < 1e-5);
    // Independent outputs in d dimensions: a token's cosine deviates by 1 / sqrt(d), and experts' mean outputs are not
    // quite zero.
    assert!(outputs.cosine_control.unwrap().abs() < 0.1, "{:?}", outputs.cosine_control);
}

/// A place with a text for windows of any length.
fn text() -> Place {
    let place = Place::new();
    place.write("text", "the quick brown fox jumps over the lazy dog. ".repeat(60));
    place
}

#[test]
fn what_experts_add_to_the_output_agrees_with_f64() {
    let place = text();
    let mut config = RunConfig::preset(Preset::Tiny);
    (config.model.d_model, config.model.layers) = (32, 2);
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (2, 1, 16);
    (config.model.moe.experts, config.model.moe.d_expert, config.model.moe.d_shared) = (4, 24, 16);
    config.model.moe.shared_gate = SharedGate::Sigmoid;
    (config.train.steps, config.train.batch, config.train.seq, config.train.eval_every) = (2, 2, 32, 2);
    config.optimizer.warmup_steps = 1;
    config.data.paths = vec!["text".into()];
    config.model.moe.balance_bias = 0.0;
    place.write("run.toml", config.to_toml().unwrap());
    place.runs("train --config run.toml --out run --quiet --report off");
    place.runs(&format!("analyze run --data text --tokens {TOKENS} --trace out.csv --out out"));
    holds(&place, &place.path("run"), "out", 32);

    // Dense layers, groups, sigmoid scores with a bias and a factor; the shared expert has no gate.
    let family = root().join("hf/deepseek_v3");
    let context = Pretrained::open(&family).unwrap().context().min(256);
    let target = family.display();
    place.runs(&format!("analyze {target} --data text --tokens {TOKENS} --trace v3.csv --out v3"));
    holds(&place, &family, "v3", context);
}

#[test]
fn a_trace_that_cannot_be_written_is_an_error_before_the_work() {
    let place = text();
    let target = root().join("hf/mixtral").display().to_string();
    let analyze = |trace: &str| format!("analyze {target} --data text --tokens 64 --out out --trace {trace}");
    std::fs::create_dir(place.path("folder")).unwrap();
    place.fails(&analyze("folder"), "writing folder: expected a file, found a folder");
    place.fails(&analyze("missing/trace.csv"), "writing missing/trace.csv: ");
    place.fails(&analyze("text"), "text: holds something else than a trace of this program; choose another file");
    place.fails(&format!("analyze {target} --out out --trace t.csv"), "--data");
    place.fails(&format!("analyze --compare {target} {target} --data text --trace t.csv"), "--trace");
    // An older trace gives way as a whole.
    place.write("t.csv", "sequence,offset,token,layer,expert_1,weight_1\nold");
    place.runs(&analyze("t.csv --layers 1"));
    let table = place.read("t.csv");
    assert!(!table.contains("old") && table.lines().skip(1).all(|l| l.split(',').nth(3) == Some("1")), "{table}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let of = |name: &str| std::fs::metadata(place.path(name)).unwrap().permissions().mode();
        assert_eq!(of("t.csv"), of("text"), "as other new files");
    }
}
