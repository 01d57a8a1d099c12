//! How tokens spread over experts, and whether an expert prefers a source of text.
//!
//! With `f_e` the share of routed slots: entropy `-sum f ln f`, variation `std f / mean f`, violation `E max f - 1`. Of the
//! joint counts of source and expert over all T K choices the mutual information `I = sum p(s, e) ln p(s, e) / (p(s) p(e))`,
//! in nats; normalised by `ln min(S, E)`. Counted from N choices, independent source and expert give
//! `(S - 1)(E - 1) / 2N` on average (Miller, "Note on the bias of information estimates", 1955): that is its null; the
//! control permutes the sources among the tokens.
//!
//! Where a token has all experts (soft routing), it counts for each by its weight `w_te`, of sum 1 over e. The same expansion
//! of I to second order then gives `(S - 1) sum_e Var_t(w_te) / f_e / 2T`.

use super::record::{Load, Pairs};
use super::routed::permutation;

/// Where the tokens came from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The source of each token.
    pub of_token: &'a [u32],
    /// Their names.
    pub names: &'a [String],
}

/// Who computes each token.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    /// E.
    pub experts: usize,
    /// K; E for soft routing.
    pub top_k: usize,
    /// Chosen experts, `[T, K]`.
    pub index: &'a [u32],
    /// Combine weights, `[T, K]`; they count where K is E.
    pub weight: &'a [f32],
}

impl Choices<'_> {
    /// Each token's experts, with what it counts for each.
    fn tokens(&self) -> impl Iterator<Item = Vec<(usize, f64)>> {
        let soft = self.top_k == self.experts;
        self.index.chunks(self.top_k).zip(self.weight.chunks(self.top_k)).map(move |(index, weight)| {
            let sum: f64 = weight.iter().map(|&w| f64::from(w)).sum();
            let count = |&w: &f32| if soft && sum > 0.0 { f64::from(w) / sum } else { 1.0 };
            index.iter().zip(weight).map(|(&e, w)| (e as usize, count(w))).collect()
        })
    }
}

/// The load of a layer.
pub fn load(layer: usize, choices: Choices<'_>, sources: Option<Sources<'_>>, seed: u64) -> Load {
    let experts = choices.experts;
    let mut counts = vec![0.0; experts];
    let mut squares = vec![0.0; experts];
    for (e, w) in choices.tokens().flatten() {
        counts[e] += w;
        squares[e] += w * w;
    }
    let total = counts.iter().sum::<f64>().max(1.0);
    let share: Vec<f64> = counts.iter().map(|c| c / total).collect();
    let mean = 1.0 / experts as f64;
    let variance = share.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / experts as f64;
    let mut found = Load {
        layer,
        dead: counts.iter().filter(|c| **c == 0.0).count(),
        entropy: -share.iter().filter(|f| **f > 0.0).map(|f| f * f.ln()).sum::<f64>(),
        variation: variance.sqrt() / mean,
        max_violation: share.iter().copied().fold(0.0, f64::max) / mean - 1.0,
        share,
        sources: Vec::new(),
        by_source: Pairs::new(),
        mutual_information: None,
        normalised_information: None,
        null: None,
        control: None,
    };
    let Some(Sources { of_token, names }) = sources else { return found };
    let joint = joint_counts(choices, of_token, names.len());
    let used = joint.iter().filter(|row| row.iter().any(|c| *c > 0.0)).count();
    found.by_source = joint
        .iter()
        .map(|row| {
            let sum: f64 = row.iter().sum();
            row.iter().map(|c| (sum > 0.0).then_some(c / sum)).collect()
        })
        .collect();
    found.sources = names.to_vec();
    if used > 1 && experts > 1 {
        let information = mutual_information(&joint);
        let live = experts - found.dead;
        // Degrees of freedom over those of one choice a token.
        let freedom = if choices.top_k == experts {
            let spread = |e: usize| (squares[e] / total - found.share[e].powi(2)) / found.share[e];
            (0..experts).filter(|&e| found.share[e] > 0.0).map(spread).sum()
        } else {
            live.max(1) as f64 - 1.0
        };
        found.mutual_information = Some(information);
        found.normalised_information = Some(information / (used.min(experts) as f64).ln());
        found.null = Some((used - 1) as f64 * freedom / (2.0 * total));
        let order = permutation(of_token.len(), seed);
        let shuffled: Vec<u32> = order.iter().map(|&t| of_token[t]).collect();
        found.control = Some(mutual_information(&joint_counts(choices, &shuffled, names.len())));
    }
    found
}

/// Choices by source and expert.
fn joint_counts(choices: Choices<'_>, of_token: &[u32], sources: usize) -> Vec<Vec<f64>> {
    let mut joint = vec![vec![0.0; choices.experts]; sources];
    for (token, &source) in choices.tokens().zip(of_token) {
        for (e, w) in token {
            joint[source as usize][e] += w;
        }
    }
    joint
}

/// In nats.
fn mutual_information(joint: &[Vec<f64>]) -> f64 {
    let n: f64 = joint.iter().flatten().sum();
    let by_source: Vec<f64> = joint.iter().map(|row| row.iter().sum()).collect();
    let by_expert: Vec<f64> =
        (0..joint.first().map_or(0, Vec::len)).map(|e| joint.iter().map(|row| row[e]).sum()).collect();
    let cells = joint.iter().zip(&by_source).flat_map(|(row, &s)| {
        row.iter().zip(&by_expert).filter(|(c, _)| **c > 0.0).map(move |(&c, &e)| c / n * (c * n / (s * e)).ln())
    });
    cells.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("source {i}")).collect()
    }

    /// Weights do not count where experts are chosen.
    fn hard(experts: usize, top_k: usize, index: &[u32]) -> Choices<'_> {
        static WEIGHT: [f32; 20_000] = [f32::NAN; 20_000];
        Choices { experts, top_k, index, weight: &WEIGHT[..index.len()] }
    }

    #[test]
    fn soft_tokens_count_by_their_weights_and_have_their_own_null() {
        let (t, e, s) = (20_000, 4, 3);
        let source: Vec<u32> = (0..t).map(|t| t % s).collect();
        let names = names(s as usize);
        let index: Vec<u32> = (0..t * e).map(|i| i % e).collect();
        // Random weights: the information is chance.
        let weight: Vec<f32> =
            (0..t * e).map(|i| 1.0 + (crate::linalg::random::words(5, 0, i)[0] % 1024) as f32).collect();
        let soft = |weight: &[f32]| {
            let choices = Choices { experts: e as usize, top_k: e as usize, index: &index, weight };
            load(0, choices, Some(Sources { of_token: &source, names: &names }), 1)
        };
        let found = soft(&weight);
        let null = found.null.unwrap();
        // About chi-squared with (S - 1)(E - 1) = 6 degrees of freedom: four deviations are 2.3 of the mean.
        for information in [found.mutual_information.unwrap(), found.control.unwrap()] {
            assert!((information / null - 1.0).abs() < 2.3, "{information} {null}");
        }
        // Far below that of hard choices: weights differ by less than choices do.
        assert!(null < 0.3 * 6.0 / (2.0 * f64::from(t)), "{null}");
        // Expert 0 has three quarters of every token of source 0, a quarter of the others.
        let prefers: Vec<f32> = (0..t * e)
            .map(|i| match (i % e, i / e % s) {
                (0, 0) => 0.75,
                (0, _) | (1, 0) => 0.25,
                (1, _) => 0.75,
                _ => 0.0,
            })
            .collect();
        let found = soft(&prefers);
        assert!((found.share[0] - 5.0 / 12.0).abs() < 1e-4 && found.dead == 2, "{found:?}");
        assert!((found.by_source[0][0].unwrap() - 0.75).abs() < 1e-12 && found.mutual_information.unwrap() > 0.1);
    }

    #[test]
    fn experts_that_follow_the_source_tell_all_of_it() {
        let source: Vec<u32> = (0..400).map(|t| t % 4).collect();
        let names = names(4);
        let sources = Some(Sources { of_token: &source, names: &names });
        let found = load(0, hard(4, 1, &source), sources, 1);
        assert!((found.mutual_information.unwrap() - 4f64.ln()).abs() < 1e-12);
        assert!((found.normalised_information.unwrap() - 1.0).abs() < 1e-12);
        assert!(found.control.unwrap() < 0.06, "{found:?}");
        assert_eq!((found.dead, found.max_violation), (0, 0.0));
        assert!((found.entropy - 4f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn chance_alone_gives_the_null() {
        let source: Vec<u32> = (0..20_000).map(|t| t % 5).collect();
        let names = names(5);
        let expert: Vec<u32> = (0..20_000).map(|t| crate::linalg::random::words(3, 0, t)[0] % 8).collect();
        let found = load(0, hard(8, 1, &expert), Some(Sources { of_token: &source, names: &names }), 1);
        let null = found.null.unwrap();
        // 2 N I is chi-squared with (S - 1)(E - 1) = 28 degrees of freedom: four deviations are 1.07 of the mean.
        for information in [found.mutual_information.unwrap(), found.control.unwrap()] {
            assert!((information / null - 1.0).abs() < 1.07, "{information} {null}");
        }
    }

    #[test]
    fn what_is_undefined_is_none() {
        let names = names(3);
        let found = load(2, hard(3, 2, &[0, 1, 0, 1]), Some(Sources { of_token: &[1, 1], names: &names }), 1);
        assert_eq!((found.dead, found.mutual_information, found.null), (1, None, None));
        assert_eq!(found.by_source, vec![vec![None; 3], vec![Some(0.5), Some(0.5), Some(0.0)], vec![None; 3]]);
        assert!((found.max_violation - 0.5).abs() < 1e-12);
    }
}
