//! The weight-only tensors of group `metrics/`: spectra, similarities, gates.
//!
//! Matrices are stored `[out, in]`; the files' side L is the rows', R the columns'.

use super::Case;
use pollster::block_on;
use sdmoe::analysis::Controls;
use sdmoe::analysis::gates::Router;
use sdmoe::analysis::record::{Pairs, Part, Similarity};
use sdmoe::analysis::spectra::{Elements, SpectrumOptions, Stack};
use sdmoe::analysis::weights::{KindWeights, LayerFindings, LayerWeights, analyze_layer};
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::train::metrics::Side;

/// Half a unit in the last place of an f32: the files' f64 weights are rounded to it.
const ROUNDING: f64 = 6e-8;
/// Products of f32 bases, over the side's dimension.
const PRODUCTS: f64 = 1e-6;
const MATRICES: [(&str, ExpertMatrix); 3] =
    [("gate_proj", ExpertMatrix::Gate), ("up_proj", ExpertMatrix::Up), ("down_proj", ExpertMatrix::Down)];

pub fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    if case.tensors.contains_key("W") {
        return single(gpu, case);
    }
    let ranks = case.meta["rs"].as_array().ok_or("meta.rs: expected numbers")?;
    for r in ranks.iter().filter_map(|r| r.as_u64()) {
        for (name, matrix) in MATRICES {
            let found = analyze(gpu, case, name, matrix, r as usize)?;
            spectra(case, name, &found)?;
            for (letter, side) in [("L", rows_side(matrix)), ("R", other(rows_side(matrix)))] {
                similarity(case, name, letter, side, r as usize, &found)
                    .map_err(|e| format!("{name}.{letter}.r{r}: {e}"))?;
            }
        }
    }
    gates(gpu, case)
}

fn rows_side(matrix: ExpertMatrix) -> Side {
    if matrix == ExpertMatrix::Down { Side::Model } else { Side::Hidden }
}

fn other(side: Side) -> Side {
    if side == Side::Model { Side::Hidden } else { Side::Model }
}

fn close(what: &str, got: f64, want: f64, allowed: f64) -> Result<(), String> {
    let error = (got - want).abs();
    if error <= allowed { Ok(()) } else { Err(format!("{what}: {got}, expected {want}, allowed {allowed:.1e}")) }
}

/// NaN in the file is "undefined", which is `None` here.
fn same(what: &str, got: Option<f64>, want: f64, allowed: f64) -> Result<(), String> {
    match got {
        None if want.is_nan() => Ok(()),
        Some(got) if !want.is_nan() => close(what, got, want, allowed),
        _ => Err(format!("{what}: {got:?}, expected {want}")),
    }
}

fn table(what: &str, got: &Pairs, want: &Array, allowed: f64) -> Result<(), String> {
    let (rows, columns) = (want.rows(), want.cols());
    if got.len() != rows || got.iter().any(|row| row.len() != columns) {
        return Err(format!("{what}: {got:?}, expected {rows} x {columns}"));
    }
    for (i, want) in want.data.iter().enumerate() {
        same(&format!("{what}[{}, {}]", i / columns, i % columns), got[i / columns][i % columns], *want, allowed)?;
    }
    Ok(())
}

fn stack<'a>(w: &Array, elements: &'a [f32]) -> Stack<'a> {
    let count = if w.shape.len() == 3 { w.shape[0] } else { 1 };
    let rows = w.rows() / count;
    Stack { count, rows, columns: w.cols(), transposed: true, elements: Elements::Host(elements) }
}

fn analyze(gpu: &Gpu, case: &Case, name: &str, matrix: ExpertMatrix, r: usize) -> Result<LayerFindings, String> {
    let w = case.tensor(&format!("w.{name}"))?;
    let elements = w.to_f32();
    let kinds = [KindWeights { matrix, merged: stack(w, &elements), decoupled: None }];
    let router = case.tensor("router")?.to_f32();
    let router = Some(Router { elements: &router, transposed: true });
    let weights = LayerWeights { layer: 0, kinds: &kinds, router };
    let options = SpectrumOptions::default().subspace(r);
    block_on(analyze_layer(gpu, &weights, &options, &mut Controls::default())).map_err(|e| e.to_string())
}

fn spectra(case: &Case, name: &str, found: &LayerFindings) -> Result<(), String> {
    let s = case.tensor(&format!("S.{name}"))?;
    let (energy, nuclear) =
        (case.tensor(&format!("energy_frac.{name}"))?, case.tensor(&format!("nuclear_frac.{name}"))?);
    let top = case.need(&[&format!("n_top.{name}")])? as usize;
    if found.spectra.len() != s.rows() {
        return Err(format!("{} spectra, expected {}", found.spectra.len(), s.rows()));
    }
    for (i, spectrum) in found.spectra.iter().enumerate() {
        let what = format!("{name}, expert {i}");
        values(&what, &spectrum.singular_values, s.row(i))?;
        close(&format!("{what}: energy of the top"), spectrum.energy_top, energy.data[i], PRODUCTS)?;
        let sum = |n: usize| spectrum.singular_values.iter().take(n).sum::<f64>();
        close(&format!("{what}: nuclear share"), sum(top) / sum(usize::MAX), nuclear.data[i], PRODUCTS)?;
    }
    Ok(())
}

/// Weyl: singular values move by at most the norm of the rounding.
fn values(what: &str, got: &[f64], want: &[f64]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} singular values, expected {}", got.len(), want.len()));
    }
    let allowed = ROUNDING * norm(want);
    for (j, (got, want)) in got.iter().zip(want).enumerate() {
        close(&format!("{what}: singular value {j}"), *got, *want, allowed)?;
    }
    Ok(())
}

fn norm(s: &[f64]) -> f64 {
    s.iter().map(|s| s * s).sum::<f64>().sqrt()
}

fn similarity(
    case: &Case,
    name: &str,
    letter: &str,
    side: Side,
    r: usize,
    found: &LayerFindings,
) -> Result<(), String> {
    let row = |part| -> Result<&Similarity, String> {
        let row = found.similarity.iter().find(|s| s.side == side && s.part == part);
        row.ok_or_else(|| format!("no row of {part:?}"))
    };
    let top = row(Part::Top)?;
    let key = format!("{name}.{letter}.r{r}");
    let (squared, cosine) = (case.tensor(&format!("sim_sq.{key}"))?, case.tensor(&format!("sim_cos.{key}"))?);
    // Davis and Kahan: a subspace turns by at most the norm of the rounding over the gap; two of them do.
    let s = case.tensor(&format!("S.{name}"))?;
    let turn = (0..s.rows()).map(|i| {
        let s = s.row(i);
        ROUNDING * norm(s) / (s[r - 1] - s.get(r).copied().unwrap_or(0.0))
    });
    let allowed = PRODUCTS + 4.0 * turn.fold(0.0, f64::max);
    table("mean squared cosine", &top.pairs, squared, allowed)?;
    let means = &case.meta[&format!("mean_offdiag.{key}")];
    for (what, got, want) in [("squared", top.mean_offdiag, &means[0]), ("cosine", top.mean_cosine, &means[1])] {
        same(&format!("mean {what}"), got, want.as_f64().ok_or("no mean in meta")?, allowed)?;
    }
    let mean = off_diagonal_mean(cosine);
    same("mean of the cosines in the file", top.mean_cosine, mean, allowed)?;
    let w = case.tensor(&format!("w.{name}"))?;
    let space = if letter == "L" { w.shape[1] } else { w.shape[2] };
    close("null", top.null, r as f64 / space as f64, 0.0)
}

fn off_diagonal_mean(x: &Array) -> f64 {
    let e = x.rows();
    let sum: f64 = (0..e * e).filter(|i| i / e != i % e).map(|i| x.data[i]).sum();
    sum / (e * (e - 1)) as f64
}

fn gates(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let r = case.need(&["M"])? as usize;
    let found = analyze(gpu, case, "gate_proj", ExpertMatrix::Gate, r)?;
    let gates = found.gates.ok_or("no gates")?;
    let s = case.tensor("S.gate_proj")?;
    let gap = (0..s.rows()).map(|i| s.row(i)[r - 1] - s.row(i).get(r).copied().unwrap_or(0.0));
    let largest = (0..s.rows()).map(|i| norm(s.row(i))).fold(0.0, f64::max);
    let allowed = PRODUCTS + 4.0 * ROUNDING * largest / gap.fold(f64::INFINITY, f64::min);
    table("align_cross", &gates.cross, case.tensor("align_cross")?, allowed)?;
    let own = case.tensor("align_own")?;
    for (i, want) in own.data.iter().enumerate() {
        same(&format!("align_own[{i}]"), gates.own[i], *want, allowed)?;
        if gates.own[i].is_none() != gates.specificity[i].is_none() {
            return Err(format!("specificity[{i}]: {:?} for own {:?}", gates.specificity[i], gates.own[i]));
        }
    }
    Ok(())
}

/// A case that is one matrix.
fn single(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let w = case.tensor("W")?;
    let elements = w.to_f32();
    let kinds = [KindWeights { matrix: ExpertMatrix::Gate, merged: stack(w, &elements), decoupled: None }];
    let weights = LayerWeights { layer: 0, kinds: &kinds, router: None };
    let found = block_on(analyze_layer(gpu, &weights, &SpectrumOptions::default(), &mut Controls::default()));
    let found = found.map_err(|e| e.to_string())?;
    let spectrum = &found.spectra[0];
    let s = &case.tensor("S")?.data;
    values("W", &spectrum.singular_values, s)?;
    let top = case.need(&["n_top"])? as usize;
    let share = |p: i32| {
        let sum = |n: usize| spectrum.singular_values.iter().take(n).map(|s| s.powi(p)).sum::<f64>();
        sum(top) / sum(usize::MAX)
    };
    close("energy_frac", spectrum.energy_top, case.need(&["energy_frac"])?, PRODUCTS)?;
    close("energy_frac of the values", share(2), case.need(&["energy_frac"])?, PRODUCTS)?;
    close("nuclear_frac", share(1), case.need(&["nuclear_frac"])?, PRODUCTS)?;
    let (stable, effective) = (case.need(&["stable_rank"])?, case.need(&["effective_rank_sigma2"])?);
    close("stable_rank", spectrum.stable_rank, stable, PRODUCTS * stable)?;
    same("effective_rank", spectrum.effective_rank, effective, PRODUCTS * effective)
}
