//! The analysis of a layer's expert weights (METHOD §6): spectra, similarity of experts, gates, decoupling. It needs no
//! data and no configuration, only matrices.
//!
//! Each matrix is read once, a few are in memory at a time, and only bases of a few vectors stay until the layer is
//! done.

use faer::MatRef;

use super::control::{Controls, side};
use super::decoupling::{CommonBasis, decoupling};
use super::gates::{Router, gates};
use super::record::{Decoupling, Gates, Of, Part, Similarity, Spectrum, SpectrumControl};
use super::spectra::{Directions, Elements, Measured, SpectrumOptions, Stack, measure};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::ExpertMatrix;
use crate::train::metrics::Side;

/// The matrices of one kind.
#[derive(Clone, Copy, Debug)]
pub struct KindWeights<'a> {
    /// The kind.
    pub matrix: ExpertMatrix,
    /// The weights that the model computes with, `W_i`; merged ones where experts are decoupled.
    pub merged: Stack<'a>,
    /// The parts of decoupled experts.
    pub decoupled: Option<Decoupled<'a>>,
}

/// The parts of decoupled experts.
#[derive(Clone, Copy, Debug)]
pub struct Decoupled<'a> {
    /// `W_u,i`, stored as the merged ones.
    pub unique: Stack<'a>,
    /// `W_c`, one matrix, stored as the merged ones.
    pub common: &'a [f32],
    /// Rank k of the common basis.
    pub rank: usize,
    /// The basis in use: left `[rows, k]` and right `[columns, k]`. Without it that of `W_c` as it is now.
    pub basis: Option<[&'a [f32]; 2]>,
}

/// The expert weights of one layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerWeights<'a> {
    /// The layer.
    pub layer: usize,
    /// Kinds of matrices, in any order.
    pub kinds: &'a [KindWeights<'a>],
    /// The router, if there is one.
    pub router: Option<Router<'a>>,
}

/// The findings on one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerFindings {
    /// By kind, of what, side and part.
    pub similarity: Vec<Similarity>,
    /// By kind, of what and expert; `W_c` last.
    pub spectra: Vec<Spectrum>,
    /// By kind, what random matrices of the same size have.
    pub spectra_controls: Vec<SpectrumControl>,
    /// Where there is a router and gate matrices.
    pub gates: Option<Gates>,
    /// By kind, where experts are decoupled.
    pub decoupling: Vec<Decoupling>,
    /// By kind, those of each expert, where [`SpectrumOptions::directions`] asks for them.
    pub directions: Vec<(ExpertMatrix, Vec<Directions>)>,
}

/// Analyses the experts' weights of one layer. `controls` keeps what is the same for all layers.
///
/// # Errors
/// [`Error::Shape`] when sizes do not fit each other; [`Error::Data`] when a weight is not finite; [`Error::Device`];
/// what the reader of the matrices gives.
pub async fn analyze_layer(
    gpu: &Gpu,
    weights: &LayerWeights<'_>,
    options: &SpectrumOptions,
    controls: &mut Controls,
) -> Result<LayerFindings> {
    let mut layer = Layer { gpu, layer: weights.layer, options, controls, found: LayerFindings::default() };
    for kind in weights.kinds {
        let merged = layer.experts(kind.matrix, &kind.merged, Of::Weights).await?;
        if let (ExpertMatrix::Gate, Some(router)) = (kind.matrix, &weights.router) {
            layer.gates(kind, &merged, router)?;
        }
        drop(merged);
        if let Some(parts) = &kind.decoupled {
            layer.experts(kind.matrix, &parts.unique, Of::Unique).await?;
            layer.common(kind, parts).await?;
        }
    }
    Ok(layer.found)
}

/// Spectra and similarities of one stack of experts' matrices, whatever they are: gradients as well as weights.
///
/// # Errors
/// As [`analyze_layer`].
pub async fn analyze_experts(
    gpu: &Gpu,
    layer: usize,
    matrix: ExpertMatrix,
    of: Of,
    stack: &Stack<'_>,
    options: &SpectrumOptions,
    controls: &mut Controls,
) -> Result<LayerFindings> {
    let mut layer = Layer { gpu, layer, options, controls, found: LayerFindings::default() };
    layer.experts(matrix, stack, of).await?;
    Ok(layer.found)
}

/// A layer on its way.
struct Layer<'a> {
    gpu: &'a Gpu,
    layer: usize,
    options: &'a SpectrumOptions,
    controls: &'a mut Controls,
    found: LayerFindings,
}

impl Layer<'_> {
    /// Distinct for all stacks of a model.
    fn key(&self, matrix: ExpertMatrix, of: Of) -> u64 {
        (self.layer as u64 * 8 + matrix as u64) * 8 + of as u64
    }

    /// Spectra and similarities of a stack of experts.
    async fn experts(&mut self, matrix: ExpertMatrix, stack: &Stack<'_>, of: Of) -> Result<Vec<Measured>> {
        let (rows, columns) = (stack.rows, stack.columns);
        let plan = self.options.plan(rows, columns);
        let named = |e| self.named(matrix, of, e);
        let directions = self.options.directions && of == Of::Weights;
        let mut found =
            measure(self.gpu, stack, plan.with_directions(directions), self.key(matrix, of)).await.map_err(named)?;
        if directions {
            let taken = found.iter_mut().filter_map(|m| m.directions.take()).collect();
            self.found.directions.push((matrix, taken));
        }
        let control = self.controls.get(self.gpu, rows, columns, plan).await?;
        for (expert, measured) in found.iter().enumerate() {
            let mut row = measured.spectrum(self.layer, matrix, Some(expert), of, plan.top);
            row.energy_top_control = Some(control.energy_top);
            row.stable_rank_control = Some(control.stable_rank);
            row.effective_rank_control = control.effective_rank;
            self.found.spectra.push(row);
        }
        let relative = control.relative.clone();
        let control_row = SpectrumControl { matrix, rows, columns, draws: control.draws, relative };
        if !self.found.spectra_controls.contains(&control_row) {
            self.found.spectra_controls.push(control_row);
        }
        let sides = if stack.row_side(matrix) == Side::Model { [0, 1] } else { [1, 0] };
        for (of_side, index) in [Side::Model, Side::Hidden].into_iter().zip(sides) {
            let overlaps = side(self.gpu, &found, index, rows, columns).await?;
            for (part, overlaps) in [Part::Top, Part::Tail].into_iter().zip(overlaps) {
                let Some(overlaps) = overlaps else { continue };
                let mut row = overlaps.row(self.layer, matrix, of_side, of, part);
                let alike = control.similarity([rows, columns][index], [rows, columns], part);
                (row.control, row.control_spread) = (alike.mean, alike.spread);
                self.found.similarity.push(row);
            }
        }
        Ok(found)
    }

    /// Returns `error` with the names of the layer and the matrix that it is about.
    fn named(&self, matrix: ExpertMatrix, of: Of, error: Error) -> Error {
        match error {
            Error::Data(message) => {
                let of = match of {
                    Of::Unique => "unique ",
                    Of::Gradients => "gradients of ",
                    Of::Weights | Of::Activations => "",
                };
                Error::Data(format!("layer {}, {of}{} of the experts: {message}", self.layer, matrix.name()))
            }
            other => other,
        }
    }

    fn gates(&mut self, kind: &KindWeights<'_>, merged: &[Measured], router: &Router<'_>) -> Result<()> {
        let stack = &kind.merged;
        let index = usize::from(stack.row_side(kind.matrix) != Side::Model);
        let d = [stack.rows, stack.columns][index];
        let bases: Vec<Option<MatRef<'_, f64>>> =
            merged.iter().map(|m| m.top.as_ref().map(|t| t[index].as_ref())).collect();
        let r = self.options.plan(stack.rows, stack.columns).r;
        self.found.gates = Some(gates(self.layer, router, &bases, [d, r], self.options.seed)?);
        Ok(())
    }

    /// The spectrum of `W_c`, and how well the others stay out of it.
    async fn common(&mut self, kind: &KindWeights<'_>, parts: &Decoupled<'_>) -> Result<()> {
        let Stack { rows, columns, transposed, .. } = parts.unique;
        let k = parts.rank;
        if k == 0 || k > rows.min(columns) {
            let expected = format!("a rank between 1 and {}", rows.min(columns));
            return Err(Error::shape("decoupling", expected, format!("{k}")));
        }
        let stack = Stack { count: 1, rows, columns, transposed, elements: Elements::Host(parts.common) };
        let plan = self.options.plan(rows, columns).with_subspace(k);
        // Activations are no stack of matrices: their key is free.
        let key = self.key(kind.matrix, Of::Activations);
        let common = measure(self.gpu, &stack, plan, key).await.map_err(|e| self.named(kind.matrix, Of::Weights, e))?;
        let Some(common) = common.first() else { return Ok(()) };
        self.found.spectra.push(common.spectrum(self.layer, kind.matrix, None, Of::Weights, plan.top));
        let basis = match (parts.basis, &common.top) {
            (Some([u, v]), _) => Some(CommonBasis::given(u, v, [rows, columns, k])?),
            (None, Some([u, v])) => Some(CommonBasis::found(u.as_ref(), v.as_ref())),
            (None, None) => None,
        };
        if let Some(basis) = basis {
            let beyond = (common.energy > 0.0).then(|| 1.0 - common.energy_share(k));
            let row = decoupling(self.gpu, self.layer, kind.matrix, &parts.unique, &basis, beyond).await?;
            self.found.decoupling.push(row);
        }
        Ok(())
    }
}
