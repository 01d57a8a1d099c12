//! How alike the experts of a run are: one number, in its metrics, its summary, on the terminal and in its report, and that of
//! an SVD in f64 of the saved checkpoint.

/// The names that `svd` takes from its neighbour in `reference`.
mod tape {
    pub type Mat = nalgebra::DMatrix<f64>;
}

use crate::common::place::Place;
use pollster::block_on;
use sdmoe::analysis::record::{Analysis, Of, Part};
use sdmoe::checkpoint::{TensorFile, load_tensors};
use sdmoe::nn::config::{ExpertMatrix, Preset};
use sdmoe::train::config::RunConfig;
use sdmoe::train::metrics::{Side, Similarity, StepMetrics};
use sdmoe::train::specialisation::{pair_similarities, similarities};
use sdmoe::train::summary::Summary;
use sdmoe::train::trainer::Trainer;
use tape::Mat;

/// The digits that are shown: 3 decimals, of which the last may be rounded either way.
const SHOWN: f64 = 1e-3;
/// Directions compared: 1 % of 104, rounded up.
const R: usize = 2;
const EXPERTS: usize = 4;

/// Matrices beyond the sizes that are decomposed whole during training, a few steps from their flat start.
fn config(spectral: bool) -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.layers = 1;
    (config.model.moe.experts, config.model.moe.d_expert, config.model.moe.d_shared) = (EXPERTS, 104, 0);
    (config.train.steps, config.train.batch, config.train.seq, config.train.spectral_every) = (6, 2, 32, 3);
    (config.optimizer.lr, config.optimizer.warmup_steps) = (1e-2, 2);
    (config.spectral.enabled, config.spectral.refresh_every) = (spectral, 4);
    config.data.paths = vec!["text".into()];
    config
}

/// Mean over pairs of the similarity of the experts, model side and hidden side.
fn exact(experts: &[Mat], matrix: ExpertMatrix) -> [f64; 2] {
    let tops: Vec<[Mat; 2]> = experts
        .iter()
        .map(|w| {
            let (u, _, v) = crate::reference::svd::svd(w);
            [u, v].map(|x| x.columns(0, R).into_owned())
        })
        .collect();
    let side = |side: usize| {
        let pairs = (0..EXPERTS * EXPERTS).map(|i| (i / EXPERTS, i % EXPERTS)).filter(|(a, b)| a != b);
        let sum: f64 = pairs.map(|(a, b)| (tops[a][side].transpose() * &tops[b][side]).norm_squared()).sum();
        sum / (R * EXPERTS * (EXPERTS - 1)) as f64
    };
    // Rows are inputs: the model side of gate and up.
    if matrix == ExpertMatrix::Down { [side(1), side(0)] } else { [side(0), side(1)] }
}

/// The experts' matrices, and their unique parts where there is a common one.
fn matrices(model: &TensorFile, optimizer: &TensorFile, matrix: ExpertMatrix) -> [Option<Vec<Mat>>; 2] {
    let (shape, w) = model.get_f32(&format!("layers.0.moe.experts.{}", matrix.name())).unwrap();
    let (m, n) = (shape[1], shape[2]);
    let read = |x: &[f32]| Mat::from_row_iterator(m, n, x.iter().map(|&x| f64::from(x)));
    let merged: Vec<Mat> = w.chunks(m * n).map(read).collect();
    let common = format!("spectral.{}.0.w_c", matrix.name());
    let unique = optimizer.contains(&common).then(|| {
        let common = read(&optimizer.get_f32(&common).unwrap().1);
        merged.iter().map(|w| w - &common).collect()
    });
    [Some(merged), unique]
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn the_similarity_of_a_run_is_one_number_everywhere() {
    for (name, spectral) in [("on", true), ("off", false)] {
        let place = Place::new();
        place.write("text", "the quick brown fox jumps over the lazy dog. ".repeat(90));
        place.write("run.toml", config(spectral).to_toml().unwrap());
        let said = place.runs(&format!("train --config run.toml --out {name} --quiet"));
        let [model, optimizer] = ["model", "optimizer"]
            .map(|part| load_tensors(&place.path(&format!("{name}/checkpoint/{part}.safetensors"))).unwrap());
        let summary: Summary = serde_json::from_str(&place.read(&format!("{name}/summary.json"))).unwrap();
        let analysis: Analysis = serde_json::from_str(&place.read(&format!("{name}/analysis/analysis.json"))).unwrap();
        let same = |what: &str, got: f64, wanted: f64| {
            assert!((got - wanted).abs() <= SHOWN, "{name}, {what}: {got}, by an exact SVD {wanted}");
        };

        // Each layer, matrix and side against the exact SVD of the checkpoint.
        let mut wanted: Vec<(Side, Of, f64)> = Vec::new();
        for matrix in ExpertMatrix::ALL {
            for (of, experts) in [Of::Weights, Of::Unique].into_iter().zip(matrices(&model, &optimizer, matrix)) {
                let Some(experts) = experts else { continue };
                for (side, exact) in [Side::Model, Side::Hidden].into_iter().zip(exact(&experts, matrix)) {
                    let what = format!("{} {side:?} {of:?}", matrix.name());
                    let row = summary.similarity.iter().find(|s| s.matrix == matrix && s.side == side).unwrap();
                    let (got, spread) = match of {
                        Of::Weights => (row.merged, row.merged_spread),
                        _ => (row.unique.unwrap(), row.unique_spread),
                    };
                    same(&format!("summary, {what}"), f64::from(got), exact);
                    let at = |s: &&sdmoe::analysis::record::Similarity| {
                        (s.matrix, s.side, s.of, s.part) == (matrix, side, of, Part::Top)
                    };
                    let row = analysis.similarity.iter().find(at).unwrap();
                    assert_eq!(row.r, R);
                    same(&format!("spread, {what}"), f64::from(spread.unwrap()), row.spread.unwrap());
                    same(&format!("report, {what}"), row.mean_offdiag.unwrap(), exact);
                    wanted.push((side, of, exact));
                }
            }
        }
        let wanted = |side, of| mean(wanted.iter().filter(|w| (w.0, w.1) == (side, of)).map(|w| w.2));

        // The means that the metrics and the report's curve hold, of the hidden side.
        let metrics = place.read(&format!("{name}/metrics.jsonl"));
        let last: StepMetrics = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
        let block = last.spectral.unwrap();
        same("metrics, merged", f64::from(block.similarity_merged.unwrap()), wanted(Side::Hidden, Of::Weights));
        assert_eq!(block.similarity_unique.is_some(), spectral);
        let curves = analysis.training.unwrap();
        let end = |curve: &[Option<f64>]| curve.last().copied().flatten();
        same("curve, merged", end(&curves.similarity_merged).unwrap(), wanted(Side::Hidden, Of::Weights));
        if spectral {
            same("metrics, unique", f64::from(block.similarity_unique.unwrap()), wanted(Side::Hidden, Of::Unique));
            same("curve, unique", end(&curves.similarity_unique).unwrap(), wanted(Side::Hidden, Of::Unique));
        }

        // And what the terminal says.
        let of_summary = |side, f: fn(&Similarity) -> Option<f32>| {
            mean(summary.similarity.iter().filter(|s| s.side == side).filter_map(f).map(f64::from))
        };
        for (side, word) in [(Side::Model, "model"), (Side::Hidden, "hidden")] {
            let mut line = format!("{word} side: merged {:.3}", of_summary(side, |s| Some(s.merged)));
            if spectral {
                line += &format!(", unique parts {:.3}", of_summary(side, |s| s.unique));
            }
            assert!(said.contains(&line), "{line} in\n{said}");
        }
    }
}

#[test]
fn the_pairs_of_experts_have_the_means_that_a_run_reports() {
    let gpu = crate::common::gpu();
    for spectral in [true, false] {
        let trainer = Trainer::new(&gpu, &config(spectral)).unwrap();
        let means = block_on(similarities(&trainer)).unwrap();
        let pairs = block_on(pair_similarities(&trainer)).unwrap();
        assert_eq!((pairs.len(), means.len()), (6, 6));
        for (pairs, means) in pairs.iter().zip(&means) {
            assert_eq!((pairs.layer, pairs.matrix, pairs.side), (means.layer, means.matrix, means.side));
            assert_eq!((pairs.chance, pairs.unique.is_some()), (means.chance, spectral));
            for (table, wanted) in [(Some(&pairs.merged), Some(means.merged)), (pairs.unique.as_ref(), means.unique)] {
                let Some((table, wanted)) = table.zip(wanted) else { continue };
                let at = |a: usize, b: usize| f64::from(table[a * EXPERTS + b]);
                let all = || (0..EXPERTS).flat_map(|a| (0..EXPERTS).map(move |b| (a, b)));
                let off = mean(all().filter(|(a, b)| a != b).map(|(a, b)| at(a, b)));
                assert!((off - f64::from(wanted)).abs() < 1e-6, "{off} {wanted}");
                // Orthonormal to rounding; rows of a symmetric product.
                assert!(all().all(|(a, b)| (at(a, b) - at(b, a)).abs() < 1e-6));
                assert!((0..EXPERTS).all(|a| (at(a, a) - 1.0).abs() < 1e-5), "{table:?}");
            }
        }
    }
}
