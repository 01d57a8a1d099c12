//! Analyses with known numbers, undefined cells and hostile names.

use sdmoe::analysis::pairs::Detail;
use sdmoe::analysis::record::{
    Activations, Analysis, Coverage, Decoupling, Gates, Jacobians, Load, Of, Outputs, Pairs, Part, PrunedLayer,
    Pruning, PruningStep, Redundant, RoutedPca, Settings, Similarity, Spectrum, SpectrumControl, Target, Training,
};
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::train::metrics::Side;
use sdmoe::train::warnings::{Kind, Warning};

/// A record with these fields, by way of JSON: records may get fields, so no other crate makes them by a literal.
macro_rules! record {
    ($type:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {{
        let mut fields = serde_json::Map::new();
        $(
            let value = of_field(|record: &$type| &record.$field, record!(@ $field $($value)?));
            fields.insert(stringify!($field).into(), serde_json::to_value(value).unwrap());
        )*
        serde_json::from_value::<$type>(fields.into()).unwrap()
    }};
    (@ $field:ident) => { $field };
    (@ $field:ident $value:expr) => { $value };
}

/// The value, which gets the type of the field.
fn of_field<R, T>(_: impl Fn(&R) -> &T, value: T) -> T {
    value
}

/// What would run if a name were not escaped.
pub const HOSTILE: &str = "<script>alert(\"1\" & '2')</script>";

/// What to plant.
#[derive(Clone, Copy)]
pub struct Plant {
    pub layers: usize,
    pub experts: usize,
    pub d: usize,
    pub f: usize,
    pub spectral: bool,
    pub data: bool,
}

/// Even numbers in [0, 1) that depend on `keys` alone (splitmix64).
fn noise(keys: &[usize]) -> f64 {
    let mut z = keys
        .iter()
        .fold(0x9e37_79b9_7f4a_7c15_u64, |z, k| (z ^ *k as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as f64 / u64::MAX as f64
}

/// A symmetric table around `level` with `own` on the diagonal; `none` has no values.
fn pairs(experts: usize, level: f64, own: f64, none: Option<usize>, keys: [usize; 3]) -> Pairs {
    let cell = |i: usize, j: usize| match none {
        Some(n) if i == n || j == n => None,
        _ if i == j => Some(own),
        _ => {
            let (a, b) = (i.min(j), i.max(j));
            // Neighbouring experts form blocks of four.
            let block = if a / 4 == b / 4 { 1.25 } else { 0.95 };
            // Never up to 1, however alike.
            let x = level * block * (0.8 + 0.4 * noise(&[a, b, keys[0], keys[1], keys[2]]));
            Some(if x < 0.7 { x } else { 0.7 + 0.3 * (1.0 - (0.7 - x).exp()) })
        }
    };
    (0..experts).map(|i| (0..experts).map(|j| cell(i, j)).collect()).collect()
}

fn off(pairs: &Pairs) -> Vec<f64> {
    let rows = pairs.iter().enumerate();
    rows.flat_map(|(i, r)| r.iter().enumerate().filter(move |(j, _)| i != *j).filter_map(|(_, x)| *x)).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation of values that stand twice each.
fn spread(values: &[f64]) -> Option<f64> {
    let centre = mean(values)?;
    Some((values.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
}

impl Plant {
    /// The expert of layer 1 that no token reaches.
    fn dead(&self, layer: usize) -> Option<usize> {
        (layer == 1 && self.data).then_some(3)
    }

    fn similarity(&self, layer: usize, matrix: ExpertMatrix, side: Side, of: Of, part: Part) -> Similarity {
        let m = if side == Side::Model { self.d } else { self.f };
        let full = self.d.min(self.f);
        let top = full.div_ceil(100);
        let r = if part == Part::Top { top } else { full - top };
        let null = r as f64 / m as f64;
        let depth = (layer as f64 + 1.0) / self.layers as f64;
        let extra = match (of, part, side) {
            (_, Part::Tail, _) => 0.02,
            (Of::Weights, _, Side::Model) if self.spectral => 0.45,
            (Of::Weights, _, Side::Hidden) if self.spectral => 0.62,
            (Of::Weights, _, Side::Model) => 0.2 + 0.45 * depth,
            (Of::Weights, ..) => 0.01,
            (Of::Unique, ..) => 0.06,
            (Of::Gradients, ..) => 0.3,
            (Of::Activations, ..) => 0.5,
        };
        let level = null + (1.0 - null) * extra;
        let none = if matches!(of, Of::Gradients) { self.dead(layer) } else { None };
        let pairs = pairs(
            if of == Of::Activations { 6 } else { self.experts },
            level,
            1.0,
            none,
            [layer, matrix as usize, of as usize + 7 * side as usize],
        );
        let values = off(&pairs);
        let mut similarity = record!(Similarity {
            layer,
            matrix,
            side,
            of,
            part,
            r,
            mean_offdiag: mean(&values),
            mean_cosine: mean(&values.iter().map(|x| x.sqrt() * 0.9).collect::<Vec<_>>()),
            spread: spread(&values),
            max: values.iter().copied().reduce(f64::max),
            null,
            control: Some(null + (1.0 - null) * 0.002 * noise(&[layer, m])),
            control_spread: Some(0.5 * null),
            pairs: Vec::new().into(),
        });
        // As JSON, hundreds of experts would take seconds.
        similarity.pairs = pairs.into();
        similarity
    }

    fn similarities(&self, layer: usize) -> Vec<Similarity> {
        let mut ofs = vec![Of::Weights];
        ofs.extend(self.spectral.then_some(Of::Unique));
        ofs.extend(self.data.then_some([Of::Gradients, Of::Activations]).into_iter().flatten());
        let mut all = Vec::new();
        for matrix in ExpertMatrix::ALL {
            for side in [Side::Model, Side::Hidden] {
                for &of in &ofs {
                    all.extend([Part::Top, Part::Tail].map(|part| self.similarity(layer, matrix, side, of, part)));
                }
            }
        }
        all
    }

    fn spectra(&self, layer: usize) -> Vec<Spectrum> {
        let kept = self.d.min(self.f).div_ceil(10).max(8);
        let mut all = Vec::new();
        for matrix in ExpertMatrix::ALL {
            let experts = (0..self.experts).map(Some).map(|e| (e, Of::Weights));
            let unique = (0..self.experts).filter(|_| self.spectral).map(Some).map(|e| (e, Of::Unique));
            let common = self.spectral.then_some((None, Of::Weights));
            for (expert, of) in experts.chain(unique).chain(common) {
                let power = 0.3 + 0.3 * layer as f64 / self.layers as f64 + 0.1 * noise(&[layer, expert.unwrap_or(99)]);
                all.push(record!(Spectrum {
                    layer,
                    matrix,
                    expert,
                    of,
                    energy_top: 0.1 + 0.3 * power,
                    energy_top_control: Some(0.04),
                    stable_rank: 12.0 / power,
                    stable_rank_control: Some(35.0),
                    effective_rank: self.data.then_some(90.0 / power),
                    effective_rank_control: self.data.then_some(100.0),
                    frobenius: 11.0,
                    singular_values: (1..=kept).map(|j| 5.0 * (j as f64).powf(-power)).collect(),
                }));
            }
        }
        all
    }

    fn spectrum_control(&self, matrix: ExpertMatrix) -> SpectrumControl {
        let kept = self.d.min(self.f).div_ceil(10).max(8);
        let (rows, columns) = if matrix == ExpertMatrix::Down { (self.f, self.d) } else { (self.d, self.f) };
        let relative = (0..kept).map(|j| 1.0 - 0.5 * j as f64 / kept as f64).collect();
        record!(SpectrumControl { matrix, rows, columns, draws: 16, relative })
    }

    fn gates(&self, layer: usize) -> Gates {
        let (r, null) = (self.d.div_ceil(100), self.d.div_ceil(100) as f64 / self.d as f64);
        let zero = (layer == 1).then_some(5 % self.experts);
        let row = |i: usize| {
            (0..self.experts)
                .map(move |j| {
                    (zero != Some(i)).then(|| null * (0.5 + noise(&[i, j, layer])) * if i == j { 6.0 } else { 1.0 })
                })
                .collect::<Vec<_>>()
        };
        let cross: Pairs = (0..self.experts).map(row).collect();
        let own: Vec<Option<f64>> = (0..self.experts).map(|i| cross[i][i]).collect();
        let others = |i: usize| {
            mean(&cross[i].iter().enumerate().filter(|(j, _)| i != *j).filter_map(|(_, x)| *x).collect::<Vec<_>>())
        };
        let specificity = (0..self.experts).map(|i| Some(own[i]? / others(i)?)).collect();
        record!(Gates {
            layer,
            r,
            own,
            specificity,
            data: self.data.then(|| vec![Some(0.1); self.experts]),
            mean_specificity: Some(6.0),
            specificity_control: Some(1.01),
            specificity_control_spread: Some(0.25),
            cross: cross.into(),
            null,
            spread: Some(2.0 * null),
            control: Some(null * 1.01),
            control_spread: Some(0.2 * null),
            stable_rank: Some(2.5),
            stable_rank_null: Some(5.1),
            stable_rank_control: Some(5.3),
        })
    }

    fn activations(&self, layer: usize) -> Vec<Activations> {
        let n = self.d.min(self.f);
        let mut all = Vec::new();
        for matrix in ExpertMatrix::ALL {
            for expert in 0..self.experts {
                let alive = self.dead(layer) != Some(expert);
                let curve = |scale: f64, power: f64| {
                    (1..=n).map(|j| alive.then(|| scale * (j as f64).powf(-power))).collect::<Vec<_>>()
                };
                all.push(record!(Activations {
                    layer,
                    matrix,
                    expert,
                    tokens: if alive { 512 } else { 0 },
                    threshold: 0.05,
                    ratio: curve(0.9 - 0.1 * layer as f64 / self.layers as f64, 0.15),
                    input_energy: curve(0.1, 0.8),
                    output_energy: curve(0.3, 1.2),
                    shuffle_top: alive.then_some(0.25),
                    shuffle_tail: alive.then_some(0.7),
                    shuffle_control: alive.then_some(0.65),
                    null: Some(0.55),
                    control: Some(0.53),
                }));
            }
        }
        all
    }

    fn jacobians(&self, layer: usize) -> Jacobians {
        let dead = self.dead(layer);
        let cosines = pairs(self.experts, 0.04, 1.0, dead, [layer, 1, 1]);
        let means = pairs(self.experts, 0.12, 1.0, dead, [layer, 2, 1]);
        let spectrum =
            |e: usize| (1..=12).map(|j| 2.0 / (j as f64).sqrt() * if Some(e) == dead { 0.0 } else { 1.0 }).collect();
        record!(Jacobians {
            layer,
            tokens: 32,
            positions: (0..32).map(|i| 2 + 4 * i).collect(),
            window: 128,
            sources: 3,
            probes: Some(16),
            mean_offdiag: mean(&off(&cosines)),
            spread: spread(&off(&cosines)),
            means_offdiag: mean(&off(&means)),
            mean_of_cosines: cosines.into(),
            cosine_of_means: means.into(),
            singular_values: (0..self.experts).map(spectrum).collect(),
            mean_spectrum: Vec::new(),
            effective_rank: (0..self.experts).map(|e| (Some(e) != dead).then_some(40.0 + e as f64)).collect(),
            spectrum_control: (1..=12).map(|j| 1.0 / (j as f64).powf(0.2)).collect(),
            effective_rank_control: Some(11.0),
            null: 0.0,
            control: Some(0.001),
            control_spread: Some(0.004),
        })
    }

    fn routed_pca(&self, layer: usize) -> RoutedPca {
        let dead = self.dead(layer);
        let (r, null) = (4, 4.0 / self.d as f64);
        let similarity = pairs(self.experts, 0.4, 1.0, dead, [layer, 3, 1]);
        let map = |f: fn(f64) -> f64| -> Pairs {
            similarity.iter().map(|row| row.iter().map(|x| x.map(f)).collect()).collect()
        };
        let of =
            |x: f64| (0..self.experts).map(|e| (Some(e) != dead).then_some(x + 0.01 * e as f64)).collect::<Vec<_>>();
        record!(RoutedPca {
            layer,
            r,
            tokens: (0..self.experts).map(|e| if Some(e) == dead { 0 } else { 400 + e }).collect(),
            explained_variance: of(0.5),
            participation_ratio: of(9.0),
            effective_rank: of(20.0),
            geodesic: map(|s| 2.0 * s.sqrt().acos()).into(),
            chordal: map(|s| 2.0 * (1.0 - s).sqrt()).into(),
            projection: map(|s| (1.0 - s * s).sqrt()).into(),
            mean_geodesic: Some(0.6),
            mean_offdiag: mean(&off(&similarity)),
            spread: spread(&off(&similarity)),
            similarity: similarity.into(),
            null,
            control: Some(0.85),
            control_spread: Some(0.03),
            control_geodesic: Some(0.2),
        })
    }

    fn load(&self, layer: usize) -> Load {
        let dead = self.dead(layer);
        let weights: Vec<f64> =
            (0..self.experts).map(|e| if Some(e) == dead { 0.0 } else { 0.5 + noise(&[e, layer, 8]) }).collect();
        let total: f64 = weights.iter().sum();
        let share: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let sources: Vec<String> =
            ["english/a-rather-long-name-of-a-file.txt", "deutsch.txt", HOSTILE, "code.rs"].map(str::to_owned).into();
        // The third source had no token.
        let row = |s: usize| {
            (0..self.experts).map(|e| (s != 2).then(|| share[e] * (0.4 + 1.2 * noise(&[s, e, layer])))).collect()
        };
        record!(Load {
            layer,
            dead: usize::from(dead.is_some()),
            entropy: -share.iter().filter(|f| **f > 0.0).map(|f| f * f.ln()).sum::<f64>(),
            variation: 0.3,
            max_violation: self.experts as f64 * share.iter().copied().fold(0.0, f64::max) - 1.0,
            by_source: (0..sources.len()).map(row).collect(),
            sources,
            mutual_information: Some(0.11 + 0.02 * layer as f64),
            normalised_information: Some(0.08),
            null: Some(0.004),
            control: Some(0.0045),
            control_spread: Some(0.0012),
            share,
        })
    }

    fn outputs(&self, layer: usize) -> Outputs {
        let dead = self.dead(layer);
        let of = |scale: f64, key: usize| -> Vec<Option<f64>> {
            (0..self.experts).map(|e| (Some(e) != dead).then(|| scale * (0.4 + noise(&[e, layer, key])))).collect()
        };
        let cosine = pairs(self.experts, 0.15, 1.0, dead, [layer, 9, 1]);
        record!(Outputs {
            layer,
            tokens: (0..self.experts).map(|e| if Some(e) == dead { 0 } else { 900 + e }).collect(),
            saliency: of(1.2, 31),
            weight: of(0.5, 32),
            norm: of(2.4, 33),
            null_saliency: Some(1.1),
            saliency_spread: Some(0.3),
            null_saliency_spread: Some(0.02),
            routed_energy: Some(3.0),
            shared_energy: Some(1.0 + layer as f64),
            shared_share: Some((1.0 + layer as f64) / (4.0 + layer as f64)),
            null_shared_share: Some(0.5),
            compared: 256,
            mean_cosine: mean(&off(&cosine)),
            cosine_spread: spread(&off(&cosine)),
            null_cosine: 0.0,
            cosine_control: Some(0.002),
            cosine_control_spread: Some(0.03),
            cosine: cosine.into(),
        })
    }

    fn pruning(&self) -> Pruning {
        let row = |e: usize| {
            let like = (e + 1 < self.experts).then_some(e + 1);
            record!(Redundant { expert: e, like, alignment: like.map(|_| 0.4), saliency: (e != 3).then_some(0.8) })
        };
        let layer = |layer: usize| {
            record!(PrunedLayer {
                layer,
                redundancy: (0..self.experts).map(row).collect(),
                saliency: (0..self.experts).rev().collect(),
            })
        };
        let step = |off: usize| {
            let random = [0.06, 0.09, 0.12].map(|x| 1.7 + x * off as f64).into();
            record!(PruningStep { off, redundancy: 1.7 + 0.02 * off as f64, saliency: 1.7 + 0.03 * off as f64, random })
        };
        record!(Pruning {
            experts: self.experts,
            top_k: 2,
            layers: (0..self.layers).map(layer).collect(),
            loss: 1.7,
            steps: [self.experts / 8, self.experts / 4].map(step).into(),
            left_out: vec!["4 of 8 experts off were left out: 4 would remain, and a token visits 6".into()],
        })
    }

    fn decoupling(&self, layer: usize, matrix: ExpertMatrix) -> Decoupling {
        let (k, d, f) = (8.0, self.d as f64, self.f as f64);
        record!(Decoupling {
            layer,
            matrix,
            drift_model: 0.0004,
            drift_hidden: 0.01 * (layer as f64 + 1.0),
            null_model: (k / d).sqrt(),
            null_hidden: (k / f).sqrt(),
            energy_beyond_rank: Some(0.02),
            common_gradient_share: self.data.then_some(0.4),
            null_gradient_share: 1.0 - (1.0 - k / d) * (1.0 - k / f),
        })
    }

    fn training(&self) -> Training {
        let steps = 600;
        let at = |f: &dyn Fn(f64) -> f64, every: usize| {
            (1..=steps).map(|s| (s % every == 0).then(|| f(s as f64 / steps as f64))).collect()
        };
        let grow = if self.spectral { 0.55 } else { 0.1 };
        record!(Training {
            step: (1..=steps as u64).collect(),
            loss: at(&|t| 1.6 + 3.0 * (-6.0 * t).exp() + 0.05 * noise(&[(t * 600.0) as usize]), 1),
            val_loss: at(&|t| 1.7 + 3.0 * (-6.0 * t).exp(), 50),
            similarity_merged: at(&|t| 0.02 + grow * t, 20),
            similarity_unique: if self.spectral { at(&|t| 0.02 + 0.07 * t, 20) } else { vec![None; steps] },
            drift_model: if self.spectral { at(&|t| 0.001 * t, 20) } else { vec![None; steps] },
            drift_hidden: if self.spectral { at(&|t| 0.002 * t, 20) } else { vec![None; steps] },
            load_max_violation: at(&|t| 2.0 * (-3.0 * t).exp() + 0.4, 10),
            null_similarity: Some(0.016),
            null_drift_model: self.spectral.then_some(0.25),
            null_drift_hidden: self.spectral.then_some(0.18),
            warnings: vec![Warning {
                kind: Kind::DeadExperts,
                step: Some(50),
                message: "step 50: 3 of the 32 experts got no token <b>at all</b>".into(),
            }],
        })
    }

    /// The record, with all pairs.
    pub fn analysis(&self, name: &str) -> Analysis {
        self.kept(name, Detail::Full)
    }

    /// The record with what `detail` keeps; as in an analysis a layer is reduced before the next is there.
    pub fn kept(&self, name: &str, detail: Detail) -> Analysis {
        let mut found = self.without_layers(name);
        for layer in 0..self.layers {
            found.similarity.extend(self.similarities(layer));
            found.spectra.extend(self.spectra(layer));
            found.gates.push(self.gates(layer));
            if self.data {
                found.activations.extend(self.activations(layer));
                found.jacobians.push(self.jacobians(layer));
                found.routed_pca.push(self.routed_pca(layer));
                found.load.push(self.load(layer));
                found.outputs.push(self.outputs(layer));
            }
            if self.spectral {
                found.decoupling.extend(ExpertMatrix::ALL.map(|m| self.decoupling(layer, m)));
            }
            found.keep(layer, detail);
        }
        found
    }

    fn without_layers(&self, name: &str) -> Analysis {
        let matrices = self.layers * self.experts * 3;
        record!(Analysis {
            target: record!(Target {
                name: name.into(),
                kind: if self.data { "run" } else { "hugging_face" }.into(),
                family: if self.data { "sdmoe" } else { "qwen2_moe" }.into(),
                stack: String::new(),
                spectral: self.spectral,
                layers: (0..self.layers).collect(),
                experts: self.experts,
                d_model: self.d,
                d_expert: self.f,
                step: self.data.then_some(600),
            }),
            settings: record!(Settings {
                top: 0.01,
                seed: 7,
                tokens: if self.data { 4096 } else { 0 },
                data: self.data.then(|| format!("text/{HOSTILE}")),
                adapter: format!("llvmpipe {HOSTILE}"),
                version: "0.1.0".into(),
            }),
            coverage: record!(Coverage {
                incomplete: Vec::new(),
                other_stacks: Vec::new(),
                matrices,
                matrices_found: matrices,
                other_tensors: 12,
                unknown_tensors: if self.data {
                    vec![format!("model.{HOSTILE}.weight"), "extra.bias".into()]
                } else {
                    Vec::new()
                },
            }),
            spectra_controls: ExpertMatrix::ALL.map(|m| self.spectrum_control(m)).into(),
            training: self.data.then(|| self.training()),
            pruning: self.data.then(|| self.pruning()),
        })
    }
}

/// A small decoupled run with data.
pub const SMALL: Plant = Plant { layers: 3, experts: 8, d: 128, f: 256, spectral: true, data: true };
/// The same without decoupling.
pub const BASELINE: Plant = Plant { spectral: false, ..SMALL };
/// A large checkpoint, weights alone.
pub const LARGE: Plant = Plant { layers: 24, experts: 60, d: 2048, f: 1408, spectral: false, data: false };
