//! Group `metrics/`, the parts that need tokens: load, activations, Jacobians, routed PCA. NaN in a file means undefined.

use super::Case;
use pollster::block_on;
use sdmoe::analysis::activations::{rows, usage};
use sdmoe::analysis::jacobian::{Experts, JacobianOptions, Prepared, jacobians};
use sdmoe::analysis::load::{Choices, Sources, load};
use sdmoe::analysis::record::Pairs;
use sdmoe::analysis::routed::Routed;
use sdmoe::analysis::routed_pca::{PcaOptions, components, participation_ratio, routed_pca};
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::tensor::Tensor;

/// Shares, cosines and ratios of f32 projections over some dozens of elements.
const SHARE: f64 = 2e-5;
/// Principal angles: subspaces come from a covariance in f32, whose gaps are as small as a hundredth of its largest
/// eigenvalue, so an angle moves by some hundred roundings.
const ANGLE: f64 = 1e-4;
/// Eigenvalues and what is made of them, relative to the largest: roundings of f32 products.
const EIGEN: f64 = 5e-6;

/// Runs what the case has tensors for.
pub fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    if !case.tensors.contains_key("topk_index") {
        return Ok(());
    }
    load_holds(case)?;
    pca_holds(gpu, case)?;
    activations_hold(gpu, case)?;
    jacobians_hold(gpu, case)
}

fn text(error: sdmoe::Error) -> String {
    error.to_string()
}

/// The worst difference of values that may be undefined; undefined on one side only is an error.
fn compare(what: &str, got: &[Option<f64>], wanted: &[f64], allowed: f64) -> Result<(), String> {
    if got.len() != wanted.len() {
        return Err(format!("{what}: {} values, expected {}", got.len(), wanted.len()));
    }
    for (i, (got, &wanted)) in got.iter().zip(wanted).enumerate() {
        match got {
            None if wanted.is_nan() => {}
            Some(got) if (got - wanted).abs() <= allowed => {}
            _ => return Err(format!("{what}[{i}]: {got:?}, expected {wanted}, allowed difference {allowed:.1e}")),
        }
    }
    Ok(())
}

fn flat(pairs: &Pairs) -> Vec<Option<f64>> {
    pairs.iter().flatten().copied().collect()
}

fn load_holds(case: &Case) -> Result<(), String> {
    let (experts, top_k) = (case.tensor("router")?.rows(), case.need(&["k"])? as usize);
    let index = case.tensor("topk_index")?.to_u32();
    let domain = case.tensor("domain")?.to_u32();
    let names: Vec<String> = (0..=domain.iter().copied().max().unwrap_or(0)).map(|s| s.to_string()).collect();
    let choices = Choices { experts, top_k, index: &index, weight: &vec![1.0; index.len()] };
    let found = load(0, choices, Some(Sources { of_token: &domain, names: &names }), 0);
    let total = index.len() as f64;
    let counts: Vec<_> = found.share.iter().map(|f| Some(f * total)).collect();
    let wanted = case.meta["tokens_per_expert"].as_array().ok_or("meta.tokens_per_expert: expected a list")?;
    let wanted: Vec<f64> = wanted.iter().filter_map(serde_json::Value::as_f64).collect();
    compare("tokens_per_expert", &counts, &wanted, 1e-9)?;
    let figures = [
        ("usage_entropy", Some(found.entropy)),
        ("cv", Some(found.variation)),
        ("max_violation", Some(found.max_violation)),
        ("mi", found.mutual_information),
        ("nmi", found.normalised_information),
    ];
    figures.into_iter().try_for_each(|(name, got)| compare(name, &[got], &[case.need(&[name])?], 1e-10))
}

fn pca_holds(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let (x, index, weight) =
        (case.tensor("x")?, case.tensor("topk_index")?.to_u32(), case.tensor("topk_weight")?.to_f32());
    let data = x.to_f32();
    let experts = case.tensor("router")?.rows();
    let routed =
        Routed { x: &data, d: x.cols(), index: &index, weight: &weight, top_k: case.need(&["k"])? as usize, experts };
    let routed = routed.check().map_err(text)?;
    let options = PcaOptions::default().r(case.need(&["q"])? as usize).seed(1);
    for (name, centred) in [("pca_eig", true), ("pca_eig0", false)] {
        let options = options.centred(centred);
        let found = block_on(components(gpu, routed, options)).map_err(text)?;
        let wanted = case.tensor(name)?;
        for (e, found) in found.iter().enumerate() {
            let wanted = wanted.row(e);
            let mut got = vec![None; x.cols()];
            if let Some(c) = found {
                got.iter_mut().zip(c.values.iter().chain(std::iter::repeat(&0.0))).for_each(|(g, l)| *g = Some(*l));
            }
            compare(&format!("{name}, expert {e}"), &got, wanted, EIGEN * wanted[0].max(1.0))?;
        }
        if !centred {
            let ratios: Vec<_> = found.iter().map(|c| participation_ratio(&c.as_ref()?.values)).collect();
            compare("pca0_PR", &ratios, &case.tensor("pca0_PR")?.data, EIGEN * x.cols() as f64)?;
        }
    }
    let found = block_on(routed_pca(gpu, 0, routed, options)).map_err(text)?;
    let scale = EIGEN * x.cols() as f64;
    compare("pca_PR", &found.participation_ratio, &case.tensor("pca_PR")?.data, scale)?;
    compare("pca_effrank", &found.effective_rank, &case.tensor("pca_effrank")?.data, scale)?;
    compare("pca_geodesic", &flat(&found.geodesic), &case.tensor("pca_geodesic")?.data, ANGLE)?;
    compare("pca_chordal", &flat(&found.chordal), &case.tensor("pca_chordal")?.data, ANGLE)
}

/// Matrices `[E, out, in]` of the file in METHOD's layout `[E, in, out]`.
fn weights(gpu: &Gpu, w: &Array) -> Result<Tensor, String> {
    let (e, rows, columns) = (w.shape[0], w.shape[1], w.shape[2]);
    let data: Vec<f32> = (0..e).flat_map(|i| w.matrix(i).transpose().to_f32()).collect();
    Tensor::from_f32(gpu, [e, columns, rows], &data).map_err(text)
}

/// The gate projection's exact singular vectors: the eigenvectors of its Gram matrix, from nalgebra in f64.
fn input_directions(w: &Array) -> (Array, Vec<f64>) {
    let (rows, columns) = (w.rows(), w.cols());
    let matrix = nalgebra::DMatrix::from_row_slice(rows, columns, &w.data);
    let eigen = (matrix.transpose() * &matrix).symmetric_eigen();
    let mut order: Vec<usize> = (0..columns).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    order.truncate(rows.min(columns));
    let values = order.iter().map(|&j| eigen.eigenvalues[j].max(0.0).sqrt()).collect();
    let r = order.len();
    (Array::from_fn(&[columns, r], |i| eigen.eigenvectors[(i / r, order[i % r])]), values)
}

fn activations_hold(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let (x, w) = (case.tensor("x")?, case.tensor("w.gate_proj")?);
    let (data, top_k) = (x.to_f32(), case.need(&["k"])? as usize);
    let index = case.tensor("topk_index")?.to_u32();
    let gate = weights(gpu, w)?;
    for e in 0..w.shape[0] {
        let (directions, s) = input_directions(&w.matrix(e));
        let tokens = index.iter().enumerate().filter(|(_, i)| **i as usize == e).map(|(pair, _)| pair / top_k);
        let x = rows(gpu, &data, x.cols(), tokens).map_err(text)?;
        let directions = Tensor::from_f32(gpu, &directions.shape, &directions.to_f32()).map_err(text)?;
        let one = gate.slice(e..e + 1).and_then(|w| w.duplicate()).map_err(text)?;
        let one = one.reshape([gate.dims()[1], gate.dims()[2]]).map_err(text)?;
        let found = block_on(usage(&x, &one, &directions, &s)).map_err(text)?;
        compare(&format!("act_out, expert {e}"), &found.output_energy, case.tensor("act_out")?.row(e), SHARE)?;
        compare(&format!("act_in, expert {e}"), &found.input_energy, case.tensor("act_in")?.row(e), SHARE)?;
        compare(&format!("act_tok, expert {e}"), &found.ratio, case.tensor("act_tok")?.row(e), 1e-9)?;
    }
    Ok(())
}

fn jacobians_hold(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let [gate, up, down] = ["w.gate_proj", "w.up_proj", "w.down_proj"].map(|name| weights(gpu, case.tensor(name)?));
    let (gate, up, down) = (gate?, up?, down?);
    let experts = Experts { gate: &gate, up: &up, down: &down };
    let upload = |name: &str| {
        let x = case.tensor(name)?;
        Tensor::from_f32(gpu, &x.shape, &x.to_f32()).map_err(text)
    };
    let (x, probes) = (upload("jac_x")?, upload("probes")?);
    let (e, d, p) = (gate.dims()[0], gate.dims()[1], probes.rows());
    let exact = Prepared::new(experts, &x, None).map_err(text)?;
    let probed = Prepared::new(experts, &x, Some(&probes)).map_err(text)?;
    let (wanted, wanted_jv, wanted_jtv) = (case.tensor("jac")?, case.tensor("Jv")?, case.tensor("JTv")?);
    let v = case.tensor("probes")?;
    for t in 0..x.rows() {
        let got = block_on(exact.at(t).map_err(text)?.to_f32()).map_err(text)?;
        let jv = block_on(probed.at(t).map_err(text)?.to_f32()).map_err(text)?;
        // The file has J[out, in]; ours is [in, out].
        let file = |expert: usize, i: usize, o: usize| wanted.data[((t * e + expert) * d + o) * d + i];
        let scale = wanted.max_abs();
        let cells = (0..e * d * d).map(|i| f64::from(got[i]) - file(i / (d * d), i / d % d, i % d));
        let worst = cells.fold(0.0f64, |a, b| a.max(b.abs()));
        if worst > 1e-5 * scale {
            return Err(format!("jac, token {t}: off by {worst:.1e}"));
        }
        for (name, wanted) in [("Jv", wanted_jv), ("JTv", wanted_jtv)] {
            for (i, &probed) in jv.iter().enumerate().take(e * p * d) {
                let (expert, probe, at) = (i / (p * d), i / d % p, i % d);
                let got = match name {
                    "Jv" => f64::from(probed),
                    // (J^T v)_i = sum_o v_o dy_o / dx_i
                    _ => (0..d).map(|o| f64::from(got[(expert * d + at) * d + o]) * v.row(probe)[o]).sum(),
                };
                let wanted_value = wanted.data[((t * e + expert) * p + probe) * d + at];
                if (got - wanted_value).abs() > 1e-5 * wanted.max_abs() {
                    return Err(format!("{name}, token {t}, expert {expert}: {got}, expected {wanted_value}"));
                }
            }
        }
    }
    let options = JacobianOptions::default().spectra(true).seed(3);
    let found = block_on(jacobians(gpu, 0, experts, &x, options)).map_err(text)?;
    compare("jcos_mean", &flat(&found.mean_of_cosines), &case.tensor("jcos_mean")?.data, SHARE)?;
    compare("jcos_of_mean", &flat(&found.cosine_of_means), &case.tensor("jcos_of_mean")?.data, SHARE)
}
