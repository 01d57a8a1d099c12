//! How tokens spread over experts, and whether an expert prefers a source of text.
//!
//! With `f_e` the share of routed slots: entropy `-sum f ln f`, variation `std f / mean f`, violation `E max f - 1`. Of
//! the joint counts of source and expert over all T K choices the mutual information
//! `I = sum p(s, e) ln p(s, e) / (p(s) p(e))`, in nats; normalised by `ln min(S, E)`. A token counts for expert e by
//! `w_te`, of sum 1 over e: `1 / K` for each of its K experts, or its weights where it has all of them (soft routing).
//! Counted from T tokens, independent source and expert give on average, to second order,
//!
//! ```text
//! (S - 1) sum_e Var_t(w_te) / f_e / 2T             = (S - 1)(E - K) / 2N with K experts a token, N = T K
//! ```
//!
//! (for K = 1 Miller, "Note on the bias of information estimates", 1955; the K experts of a token differ, so each of
//! them is chosen with a variance of `K f (1 - K f)`, whatever the load). That is the null; the control is the mean
//! over several permutations of the sources among the tokens.

use super::record::{Load, Pairs};
use super::routed::permutation;
use crate::linalg::random::words;
use crate::linalg::statistics::{deviation, mean};

/// Permutations of the control. One scatters by about `sqrt(2 / (S - 1)(E - 1))` of its mean, 0.4 of it for 3 sources
/// and 8 experts; the mean of this many by a tenth.
const PERMUTATIONS: u32 = 16;

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
    let even = 1.0 / experts as f64;
    let variance = share.iter().map(|f| (f - even).powi(2)).sum::<f64>() / experts as f64;
    let mut found = Load {
        layer,
        dead: counts.iter().filter(|c| **c == 0.0).count(),
        entropy: -share.iter().filter(|f| **f > 0.0).map(|f| f * f.ln()).sum::<f64>(),
        variation: variance.sqrt() / even,
        max_violation: share.iter().copied().fold(0.0, f64::max) / even - 1.0,
        share,
        sources: Vec::new(),
        by_source: Pairs::new(),
        mutual_information: None,
        normalised_information: None,
        null: None,
        control: None,
        control_spread: None,
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
        // Degrees of freedom; of one choice a token they are E - 1.
        let freedom = if choices.top_k == experts {
            let spread = |e: usize| (squares[e] / total - found.share[e].powi(2)) / found.share[e];
            (0..experts).filter(|&e| found.share[e] > 0.0).map(spread).sum()
        } else {
            (experts - found.dead).saturating_sub(choices.top_k) as f64
        };
        found.mutual_information = Some(information);
        found.normalised_information = Some(information / (used.min(experts) as f64).ln());
        found.null = Some((used - 1) as f64 * freedom / (2.0 * total));
        let permuted = |i: u32| {
            let [low, high, ..] = words(seed, i, 0).map(u64::from);
            let order = permutation(of_token.len(), low | high << 32);
            let shuffled: Vec<u32> = order.iter().map(|&t| of_token[t]).collect();
            mutual_information(&joint_counts(choices, &shuffled, names.len()))
        };
        let control: Vec<f64> = (0..PERMUTATIONS).map(permuted).collect();
        found.control = mean(control.iter().copied());
        found.control_spread = deviation(&control);
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
        assert!(found.control.unwrap() < 0.03, "{found:?}");
        assert_eq!((found.dead, found.max_violation), (0, 0.0));
        assert!((found.entropy - 4f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn chance_alone_gives_the_null_for_any_number_of_experts_a_token() {
        let (t, s, experts) = (2_500u32, 5u32, 8u32);
        let source: Vec<u32> = (0..t).map(|t| t % s).collect();
        let names = names(s as usize);
        for top_k in [1, 2, 7] {
            // The experts with the largest random keys, of which some are larger on the whole: an uneven load.
            let keys = |t: u32| {
                let mut keys: Vec<(u32, u32)> = (0..experts).map(|e| (words(3, t, e)[0] / (1 + e % 3), e)).collect();
                keys.sort_unstable();
                keys.into_iter().rev().take(top_k).map(|(_, e)| e).collect::<Vec<u32>>()
            };
            let expert: Vec<u32> = (0..t).flat_map(keys).collect();
            let found = load(0, hard(8, top_k, &expert), Some(Sources { of_token: &source, names: &names }), 1);
            let null = found.null.unwrap();
            let freedom = f64::from((s - 1) * (experts - top_k as u32));
            assert!((null - freedom / f64::from(2 * t * top_k as u32)).abs() < 1e-15);
            // 2 N I is about chi-squared with (S - 1)(E - 1) = 28 degrees of freedom, times a factor: its deviation is
            // sqrt(2 / 28) of its mean. Four deviations for one draw, four of a mean of sixteen for the control.
            let scatter = (2.0 / 28.0_f64).sqrt();
            let information = found.mutual_information.unwrap();
            assert!((information / null - 1.0).abs() < 4.0 * scatter, "K {top_k}: {information} {null}");
            let control = found.control.unwrap();
            assert!((control / null - 1.0).abs() < 4.0 * scatter / 4.0, "K {top_k}: {control} {null}");
            // The deviation of sixteen draws is right to 18 %.
            let spread = found.control_spread.unwrap() / null / scatter;
            assert!((0.3..1.7).contains(&spread), "K {top_k}: {spread}");
        }
    }

    #[test]
    fn what_is_undefined_is_none() {
        let names = names(3);
        let found = load(2, hard(3, 2, &[0, 1, 0, 1]), Some(Sources { of_token: &[1, 1], names: &names }), 1);
        assert_eq!((found.dead, found.mutual_information, found.null), (1, None, None));
        assert_eq!((found.control, found.control_spread), (None, None));
        assert_eq!(found.by_source, vec![vec![None; 3], vec![Some(0.5), Some(0.5), Some(0.0)], vec![None; 3]]);
        assert!((found.max_violation - 0.5).abs() < 1e-12);
    }
}
