//! The choice of groups of experts before the choice of experts (DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv
//! 2412.19437).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::kernels::rows::group_threads;
use crate::tensor::{DType, Tensor};

/// Lowers the scores of the experts outside a token's groups below all others.
pub static ROUTING_GROUPS: Kernel =
    Kernel::new("routing_groups", wgsl!["routing_groups.wgsl"]).params::<GroupsParams>();

/// The score of an expert outside a token's groups, far below what scores can be; an expert that is switched off has a
/// lower one.
pub const OUTSIDE: f32 = -1e30;

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    vec![(&ROUTING_GROUPS).into()]
}

crate::params! {
    struct GroupsParams {
        tokens: u32,
        experts: u32,
        groups: u32,
        kept: u32,
        biased: u32,
        /// 1 where a group's value is the sum of its two largest scores, 0 where it is the largest.
        two: u32,
        outside: f32,
    }
}

/// The value of a group of experts from its experts' scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupScore {
    /// The largest (DeepSeek-V2).
    #[default]
    Largest,
    /// The sum of the two largest (DeepSeek-V3).
    TwoLargest,
}

/// Which groups a token keeps: the `kept` of largest value of `groups` groups of successive experts.
#[derive(Clone, Copy, Debug)]
pub struct GroupChoice {
    /// Number of groups, at most 64.
    pub groups: usize,
    /// Groups that a token keeps.
    pub kept: usize,
    /// The value of a group.
    pub score: GroupScore,
}

/// Returns `scores + bias`, `f32 [T, E]`, with at most [`OUTSIDE`] for those outside the kept groups. Equal groups: the
/// lower one is kept.
///
/// # Errors
/// [`Error::Shape`] unless `groups` divides E, is at most 64 and at least `kept`; [`Error::Device`].
pub fn keep_groups(scores: &Tensor, bias: Option<&Tensor>, choice: GroupChoice) -> Result<Tensor> {
    let (gpu, tokens, experts) = (scores.gpu(), scores.rows(), scores.cols());
    let GroupChoice { groups, kept, score } = choice;
    let divides = (1..=64).contains(&groups) && experts.is_multiple_of(groups) && (1..=groups).contains(&kept);
    let typed = scores.dtype() == DType::F32 && bias.is_none_or(|b| b.numel() == experts && b.dtype() == DType::F32);
    if !divides || !typed || (score == GroupScore::TwoLargest && experts / groups < 2) {
        let expected =
            "f32 scores [T, E], bias [E], at most 64 equal groups (of two experts at least for the sum of two)";
        return Err(Error::shape("groups of experts", expected, format!("{scores:?}, {bias:?}, {choice:?}")));
    }
    let chosen = Tensor::empty_f32(gpu, [tokens, experts])?;
    let threads = group_threads(gpu);
    for range in Parts::new("groups of experts", tokens).sliced(gpu, &[experts]).ranges()? {
        let part = scores.slice(range.clone())?;
        Launch::new(&ROUTING_GROUPS)
            .constant("WG", threads)
            .params(&GroupsParams {
                tokens: range.len() as u32,
                experts: experts as u32,
                groups: groups as u32,
                kept: kept as u32,
                biased: u32::from(bias.is_some()),
                two: u32::from(score == GroupScore::TwoLargest),
                outside: OUTSIDE,
            })
            .read("scores", &part)
            // Without a bias nothing is read from here, but something must be bound.
            .read("bias", bias.unwrap_or(&part))
            .write("chosen", &chosen.slice(range.clone())?)
            .threads(range.len(), threads)
            .run(gpu)?;
    }
    Ok(chosen)
}
