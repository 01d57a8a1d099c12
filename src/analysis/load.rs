//! How tokens spread over experts, and whether an expert prefers a source of text.
//!
//! With `f_e` the share of routed slots: entropy `-sum f ln f`, variation `std f / mean f`, violation `E max f - 1`. Of the
//! joint counts of source and expert over all T K choices the mutual information `I = sum p(s, e) ln p(s, e) / (p(s) p(e))`,
//! in nats; normalised by `ln min(S, E)`. Counted from N choices, independent source and expert give
//! `(S - 1)(E - 1) / 2N` on average (Miller, "Note on the bias of information estimates", 1955): that is its null; the
//! control permutes the sources among the tokens.

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

/// The load of a layer from the chosen experts `index: [T, K]`.
pub fn load(
    layer: usize,
    experts: usize,
    top_k: usize,
    index: &[u32],
    sources: Option<Sources<'_>>,
    seed: u64,
) -> Load {
    let mut counts = vec![0usize; experts];
    for &e in index {
        counts[e as usize] += 1;
    }
    let total = index.len().max(1) as f64;
    let share: Vec<f64> = counts.iter().map(|&c| c as f64 / total).collect();
    let mean = 1.0 / experts as f64;
    let variance = share.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / experts as f64;
    let mut found = Load {
        layer,
        dead: counts.iter().filter(|&&c| c == 0).count(),
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
    let joint = joint_counts(experts, top_k, index, of_token, names.len());
    let used = joint.iter().filter(|row| row.iter().any(|&c| c > 0)).count();
    found.by_source = joint
        .iter()
        .map(|row| {
            let sum: usize = row.iter().sum();
            row.iter().map(|&c| (sum > 0).then(|| c as f64 / sum as f64)).collect()
        })
        .collect();
    found.sources = names.to_vec();
    if used > 1 && experts > 1 {
        let information = mutual_information(&joint);
        let live = experts - found.dead;
        found.mutual_information = Some(information);
        found.normalised_information = Some(information / (used.min(experts) as f64).ln());
        found.null = Some((used - 1) as f64 * (live.max(1) - 1) as f64 / (2.0 * total));
        let order = permutation(of_token.len(), seed);
        let shuffled: Vec<u32> = order.iter().map(|&t| of_token[t]).collect();
        found.control = Some(mutual_information(&joint_counts(experts, top_k, index, &shuffled, names.len())));
    }
    found
}

/// Choices by source and expert.
fn joint_counts(experts: usize, top_k: usize, index: &[u32], of_token: &[u32], sources: usize) -> Vec<Vec<usize>> {
    let mut joint = vec![vec![0usize; experts]; sources];
    for (choices, &source) in index.chunks(top_k).zip(of_token) {
        for &e in choices {
            joint[source as usize][e as usize] += 1;
        }
    }
    joint
}

/// In nats.
fn mutual_information(joint: &[Vec<usize>]) -> f64 {
    let total: usize = joint.iter().flatten().sum();
    let by_source: Vec<usize> = joint.iter().map(|row| row.iter().sum()).collect();
    let by_expert: Vec<usize> =
        (0..joint.first().map_or(0, Vec::len)).map(|e| joint.iter().map(|row| row[e]).sum()).collect();
    let n = total as f64;
    let cells = joint.iter().zip(&by_source).flat_map(|(row, &s)| {
        row.iter().zip(&by_expert).filter(|(c, _)| **c > 0).map(move |(&c, &e)| {
            let c = c as f64;
            c / n * (c * n / (s as f64 * e as f64)).ln()
        })
    });
    cells.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("source {i}")).collect()
    }

    #[test]
    fn experts_that_follow_the_source_tell_all_of_it() {
        let source: Vec<u32> = (0..400).map(|t| t % 4).collect();
        let names = names(4);
        let sources = Some(Sources { of_token: &source, names: &names });
        let found = load(0, 4, 1, &source, sources, 1);
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
        let found = load(0, 8, 1, &expert, Some(Sources { of_token: &source, names: &names }), 1);
        let null = found.null.unwrap();
        // 2 N I is chi-squared with (S - 1)(E - 1) = 28 degrees of freedom: four deviations are 1.07 of the mean.
        for information in [found.mutual_information.unwrap(), found.control.unwrap()] {
            assert!((information / null - 1.0).abs() < 1.07, "{information} {null}");
        }
    }

    #[test]
    fn what_is_undefined_is_none() {
        let names = names(3);
        let found = load(2, 3, 2, &[0, 1, 0, 1], Some(Sources { of_token: &[1, 1], names: &names }), 1);
        assert_eq!((found.dead, found.mutual_information, found.null), (1, None, None));
        assert_eq!(found.by_source, vec![vec![None; 3], vec![Some(0.5), Some(0.5), Some(0.0)], vec![None; 3]]);
        assert!((found.max_violation - 0.5).abs() < 1e-12);
    }
}
