//! The sections of the page: one question each.

mod activations;
mod first;
mod gates;
mod jacobians;
mod load;
mod outputs;
mod pairs;
mod pruning;
mod routed_pca;
mod similarity;
mod spectra;
mod training;

use super::figure::Figure;
use super::subject::Subject;

pub use first::first_screen;

/// A question, and the figures that answer it.
#[derive(Debug)]
pub struct Section {
    /// Anchor in the page.
    pub id: &'static str,
    /// The question.
    pub question: &'static str,
    /// The figures; none where nothing was measured.
    pub figures: Vec<Figure>,
    /// A text on what gives the figures that are missing.
    pub option: &'static str,
}

/// Needed for what looks at tokens.
const DATA: &str = "it needs text and a model that this program can run: add --data PATH";

/// All sections, in the order of the page.
pub fn all(subjects: &[Subject]) -> Vec<Section> {
    let section = |id, question, figures: Vec<Option<Figure>>, option| Section {
        id,
        question,
        figures: figures.into_iter().flatten().collect(),
        option,
    };
    vec![
        section(
            "weights",
            "Do experts share their leading directions?",
            similarity::weights(subjects),
            "it needs at least two experts in a layer",
        ),
        section(
            "spectra",
            "Where is the experts' energy?",
            spectra::spectra(subjects),
            "no expert matrix was analysed",
        ),
        section("gradients", "Do experts learn the same thing?", similarity::gradients(subjects), DATA),
        section(
            "gates",
            "Does the router follow the experts' directions?",
            gates::gates(subjects),
            "no router was found beside the experts",
        ),
        section("activations", "Which directions do tokens use?", activations::activations(subjects), DATA),
        section("jacobians", "Do experts compute different functions?", jacobians::jacobians(subjects), DATA),
        section("routed-pca", "Do experts get different tokens?", routed_pca::routed_pca(subjects), DATA),
        section("load", "Who gets how many tokens, and from where?", load::load(subjects), DATA),
        section("outputs", "How much does each expert add?", outputs::outputs(subjects), DATA),
        section(
            "pruning",
            "Which experts could go?",
            pruning::pruning(subjects),
            "it takes some 16 further passes over the text: add --prune to --data PATH",
        ),
        section(
            "decoupling",
            "Do decoupled experts stay decoupled?",
            training::decoupling(subjects),
            "it needs a run or checkpoint of decoupled experts: sdmoe train --spectral on",
        ),
        section(
            "training",
            "How did training go?",
            training::training(subjects),
            "the target is no run folder with a metrics.jsonl",
        ),
    ]
}
