//! Reduces a record to what it keeps of many experts, a layer as soon as it is done.

use super::pairs::{Detail, Diagonal, rounded};
use super::record::{ActivationMeans, Analysis, Of, SpectrumOverExperts};
use crate::nn::config::ExpertMatrix;

/// Significant digits of curves over experts: they stand for many values that differ in the second.
const DIGITS: usize = 5;

impl Analysis {
    /// Keeps of layer `layer` no more than `detail` says. What has been reduced stays as it is.
    pub fn keep(&mut self, layer: usize, detail: Detail) {
        if detail == Detail::Full {
            return;
        }
        // Samples are few, however many the experts.
        let similarity = self.similarity.iter_mut().filter(|r| r.layer == layer && r.of != Of::Activations);
        similarity.for_each(|r| r.pairs.keep(detail, Diagonal::Trivial));
        self.gates.iter_mut().filter(|g| g.layer == layer).for_each(|g| g.cross.keep(detail, Diagonal::Counts));
        for j in self.jacobians.iter_mut().filter(|j| j.layer == layer) {
            j.mean_of_cosines.keep(detail, Diagonal::Trivial);
            j.cosine_of_means.keep(detail, Diagonal::Trivial);
            if !j.singular_values.is_empty() {
                j.mean_spectrum = j.relative_spectrum().into_iter().map(|x| rounded(x, DIGITS)).collect();
                j.singular_values.clear();
                j.spectrum_control.iter_mut().for_each(|x| *x = rounded(*x, DIGITS));
            }
        }
        self.outputs.iter_mut().filter(|o| o.layer == layer).for_each(|o| o.cosine.keep(detail, Diagonal::Trivial));
        for p in self.routed_pca.iter_mut().filter(|p| p.layer == layer) {
            for pairs in [&mut p.similarity, &mut p.geodesic, &mut p.chordal, &mut p.projection] {
                pairs.keep(detail, Diagonal::Trivial);
            }
        }
        for matrix in ExpertMatrix::ALL {
            [Of::Weights, Of::Unique, Of::Gradients].into_iter().for_each(|of| self.keep_spectra(layer, matrix, of));
            self.keep_activations(layer, matrix);
        }
    }

    fn keep_spectra(&mut self, layer: usize, matrix: ExpertMatrix, of: Of) {
        let rows = self.spectra.iter_mut().filter(|s| {
            (s.layer, s.matrix, s.of) == (layer, matrix, of) && s.expert.is_some() && !s.singular_values.is_empty()
        });
        let values: Vec<Vec<f64>> = rows.map(|s| std::mem::take(&mut s.singular_values)).collect();
        let relative: Vec<Vec<f64>> = values.iter().filter_map(|s| relative(s)).collect();
        if values.is_empty() {
            return;
        }
        let mut found = SpectrumOverExperts {
            layer,
            matrix,
            of,
            lowest: vec![],
            median: vec![],
            highest: vec![],
            experts: values.len(),
        };
        for j in 0..relative.iter().map(Vec::len).max().unwrap_or(0) {
            let mut at: Vec<f64> = relative.iter().filter_map(|s| s.get(j).copied()).collect();
            at.sort_by(f64::total_cmp);
            found.lowest.push(rounded(at[0], DIGITS));
            found.median.push(rounded((at[(at.len() - 1) / 2] + at[at.len() / 2]) / 2.0, DIGITS));
            found.highest.push(rounded(at[at.len() - 1], DIGITS));
        }
        self.spectra_over_experts.push(found);
    }

    fn keep_activations(&mut self, layer: usize, matrix: ExpertMatrix) {
        let mut rows: Vec<_> = self
            .activations
            .iter_mut()
            .filter(|a| (a.layer, a.matrix) == (layer, matrix) && !a.ratio.is_empty())
            .collect();
        if rows.is_empty() {
            return;
        }
        let mut take = |values: fn(&mut super::record::Activations) -> &mut Vec<Option<f64>>| {
            means(&rows.iter_mut().map(|a| std::mem::take(values(a))).collect::<Vec<_>>())
        };
        let (ratio, input_energy, output_energy) =
            (take(|a| &mut a.ratio), take(|a| &mut a.input_energy), take(|a| &mut a.output_energy));
        let experts = rows.iter().filter(|a| a.tokens > 0).count();
        self.activation_means.push(ActivationMeans { layer, matrix, experts, ratio, input_energy, output_energy });
    }
}

/// Singular values over the largest; none of a zero matrix.
fn relative(s: &[f64]) -> Option<Vec<f64>> {
    let first = s.first().copied().filter(|first| *first > 0.0)?;
    Some(s.iter().map(|s| s / first).collect())
}

/// Means over what is defined.
fn means(curves: &[Vec<Option<f64>>]) -> Vec<Option<f64>> {
    let at = |j: usize| {
        let defined = curves.iter().filter_map(|c| c.get(j).copied().flatten());
        let (count, sum) = defined.fold((0u32, 0.0), |(n, sum), x| (n + 1, sum + x));
        (count > 0).then(|| rounded(sum / f64::from(count), DIGITS))
    };
    (0..curves.iter().map(Vec::len).max().unwrap_or(0)).map(at).collect()
}
