//! Every kernel, in every family that an adapter can run, against f64.
//!
//! Shapes include 1, primes, sizes that no tile divides, experts without rows. Tolerances come from the computation and are those of
//! the crate's own tests.

mod attention;
mod experts;
mod grouped;
#[cfg(feature = "analysis")]
mod jacobian;
mod large;
mod linalg;
mod optimizer;
mod products;
mod reductions;
mod routed;
mod routing;
mod rows;
mod spectral;
mod spectral_metrics;
pub(super) mod training;
mod weights16;

use super::context::Case;
use crate::gpu::Tier;

/// The cases of a tier, groups one after the other, within a group the smallest first.
pub(super) fn cases(tier: Tier) -> Vec<Case> {
    let mut all = Vec::new();
    for f16 in [false, true] {
        all.extend(rows::cases(tier, f16));
        all.extend(attention::cases(tier, f16));
        all.extend(experts::cases(tier, f16));
    }
    all.extend(products::cases(tier));
    all.extend(grouped::cases(tier));
    all.extend(weights16::cases(tier));
    all.extend(routing::cases());
    all.extend(reductions::cases());
    all.extend(optimizer::cases());
    all.extend(spectral::cases());
    all.extend(spectral_metrics::cases());
    all.extend(linalg::cases());
    #[cfg(feature = "analysis")]
    all.extend(jacobian::cases());
    all.extend(training::cases(tier));
    all.extend(large::cases());
    let group = |case: &Case| (case.group().to_owned(), case.variant.clone());
    let mut groups: Vec<_> = Vec::new();
    for case in &all {
        if !groups.contains(&group(case)) {
            groups.push(group(case));
        }
    }
    all.sort_by_key(|case| groups.iter().position(|other| *other == group(case)));
    all
}

/// Sizes as a name has them.
fn sizes(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
