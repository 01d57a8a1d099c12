//! How the tokens of a layer use its experts' matrices, and how alike they are from sample to sample (METHOD §6,
//! figures 3 and 5).

use super::activations::{
    Usage, mean_ratio, random_directions, random_share, rows, shuffle_sensitivity, threshold, usage,
};
use super::control::{Controls, side};
use super::observe::LayerView;
use super::record::{Activations, Of, Part, Similarity};
use super::routed::Routed;
use super::spectra::{Directions, Elements, SpectrumOptions, Stack, measure};
use crate::autograd::Op;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::nn::config::ExpertMatrix;
use crate::nn::part::PartRef;
use crate::ops::SwiGlu;
use crate::tensor::Tensor;
use crate::train::metrics::Side;

/// Samples that the text is split into.
const SAMPLES: usize = 8;
/// Random directions of the controls: their mean is good to a few per cent of itself.
const RANDOM: usize = 32;
/// Keys of [`measure`] that no stack of matrices has.
const KEY: u64 = 1 << 41;

/// Experts' matrices of one kind, with the directions of their input.
pub(super) struct Kind {
    pub layer: usize,
    pub matrix: ExpertMatrix,
    /// One an expert.
    pub directions: Vec<Directions>,
}

/// How the experts' matrices of one kind use the activations: gate and up the layer's input, down the hidden states.
///
/// # Errors
/// [`Error::Shape`] when there are no directions of every expert; [`Error::Device`].
pub(super) async fn activations(
    gpu: &Gpu,
    part: PartRef<'_>,
    kind: Kind,
    view: &LayerView,
    routed: Routed<'_>,
    options: &SpectrumOptions,
) -> Result<Vec<Activations>> {
    let Kind { layer, matrix, directions } = kind;
    let groups = routed.groups();
    let &[count, m, n] = experts(part, matrix)?.dims() else { return Ok(Vec::new()) };
    if directions.len() != count || directions.iter().any(|d| d.u.len() != m * d.s.len()) {
        let got = format!("those of {} in layer {layer}", directions.len());
        return Err(Error::shape("activations", format!("directions of {count} experts in {m} dimensions"), got));
    }
    let top = options.plan(m, n).top;
    let seed = options.seed ^ (KEY + (layer * 8 + matrix as usize) as u64);
    let random = random_directions(gpu, m, RANDOM.min(m), seed)?;
    let mut found = Vec::new();
    for (expert, Directions { s, u }) in directions.into_iter().enumerate() {
        let tokens = || groups[expert].iter().map(|(t, _)| *t);
        let none = vec![None; s.len()];
        let mut row = Activations {
            layer,
            matrix,
            expert,
            tokens: groups[expert].len(),
            threshold: threshold(m),
            ratio: none.clone(),
            input_energy: none.clone(),
            output_energy: none,
            shuffle_top: None,
            shuffle_tail: None,
            shuffle_control: None,
            null: random_share(m),
            control: None,
        };
        if row.tokens > 0 {
            let mut inputs = Vec::new();
            for x in [&view.x, &view.permuted] {
                let x = rows(gpu, x, routed.d, tokens())?;
                inputs.push(if matrix == ExpertMatrix::Down { hidden(part, expert, &x)? } else { x });
            }
            let [x, permuted] = &inputs[..] else { continue };
            let u = Tensor::from_f32(gpu, [m, s.len()], &u)?;
            let w = one(part, matrix, expert)?;
            let Usage { ratio, input_energy, output_energy } = usage(x, &w, &u, &s).await?;
            (row.ratio, row.input_energy, row.output_energy) = (ratio, input_energy, output_energy);
            [row.shuffle_top, row.shuffle_tail] = shuffle_sensitivity(x, permuted, &u, top).await?;
            row.control = mean_ratio(x, &random).await?;
            row.shuffle_control = shuffle_sensitivity(x, permuted, &random, RANDOM).await?[0];
        }
        found.push(row);
    }
    Ok(found)
}

/// The experts' matrices of one kind in a layer, `[E, m, n]`.
pub(super) fn experts(part: PartRef<'_>, matrix: ExpertMatrix) -> Result<&Tensor> {
    let found = part.experts(matrix);
    found.ok_or_else(|| Error::shape("experts", "a layer with experts", format!("{:?} without any", part.part())))
}

/// One expert's matrix: a copy, as a slice may not start where a binding can.
fn one(part: PartRef<'_>, matrix: ExpertMatrix, expert: usize) -> Result<Tensor> {
    let stack = experts(part, matrix)?;
    let w = stack.slice(expert..expert + 1)?.duplicate()?;
    w.reshape(&stack.dims()[1..])
}

/// `silu(x W_gate) * (x W_up)` of one expert.
fn hidden(part: PartRef<'_>, expert: usize, x: &Tensor) -> Result<Tensor> {
    let mut parts = Vec::new();
    for matrix in [ExpertMatrix::Gate, ExpertMatrix::Up] {
        let w = one(part, matrix, expert)?;
        let y = Tensor::empty_f32(x.gpu(), [x.rows(), w.cols()])?;
        gemm(Trans::N, Trans::N, 1.0, x, &w, 0.0, &y)?;
        parts.push(y);
    }
    Ok(SwiGlu.forward(&[&parts[0], &parts[1]])?.output)
}

/// The leading directions of the layer's input `x: [tokens, d]` (the mean is not removed), compared between samples of
/// consecutive windows of `seq` tokens: rows of model side, under the gate matrix, whose input it is. None for less
/// than two windows.
pub(super) async fn samples(
    gpu: &Gpu,
    layer: usize,
    x: &[f32],
    [d, seq]: [usize; 2],
    options: &SpectrumOptions,
    controls: &mut Controls,
) -> Result<Vec<Similarity>> {
    let windows = x.len() / (d * seq);
    let count = windows.min(SAMPLES);
    if count < 2 {
        return Ok(Vec::new());
    }
    let n = windows / count * seq;
    let elements = Elements::Host(&x[..count * n * d]);
    let stack = Stack { count, rows: n, columns: d, transposed: false, elements };
    let plan = options.plan(n, d);
    let found = measure(gpu, &stack, plan, KEY + (layer * 8 + 7) as u64).await?;
    let control = controls.get(gpu, n, d, plan).await?;
    let overlaps = side(gpu, &found, 1, n, d).await?;
    let rows = [Part::Top, Part::Tail].into_iter().zip(overlaps).filter_map(|(part, overlaps)| {
        let mut row = overlaps?.row(layer, ExpertMatrix::Gate, Side::Model, Of::Activations, part);
        let alike = control.similarity(d, [n, d], part);
        (row.control, row.control_spread) = (alike.mean, alike.spread);
        Some(row)
    });
    Ok(rows.collect())
}
