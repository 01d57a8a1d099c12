//! Advice for pruning and merging (METHOD §7): which experts are needed least, and the loss on the text without them.
//!
//! Redundancy is read from the alignment of Jacobians, as arXiv 2605.16349 advises: of the two most aligned experts the
//! one with the lower saliency goes, and so on with those that are left, so that of two copies one stays. Beside it the
//! order by saliency alone (REAP, arXiv 2510.13999). The chance is as many experts drawn at random.

use super::record::{Outputs, Pairs, PrunedLayer, Pruning, PruningStep, Redundant};
use super::routed::permutation;
use crate::data::sources::SourceWindows;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::loss::{mean, token_losses};
use crate::nn::mask::ExpertMask;
use crate::nn::part::ModelParts;
use crate::nn::passage::{Passenger, STATES, pass_through, sequences_with_logits};
use crate::tensor::Tensor;

/// The shares of a layer's experts that are switched off: one of so many.
const SHARES: [usize; 3] = [8, 4, 2];
/// Draws of experts at random.
const DRAWS: u64 = 3;

/// The order in which a layer's experts are least needed, from the alignment of their Jacobians, `[E, E]`, and what
/// they add to the output.
pub fn order(alignment: &Pairs, outputs: &Outputs) -> PrunedLayer {
    let experts = outputs.saliency.len();
    let at = |e: usize| outputs.saliency[e].unwrap_or(0.0);
    let relative = |e: usize| outputs.over_mean(outputs.saliency[e]);
    // The least salient first; of equals the last.
    let mut saliency: Vec<usize> = (0..experts).collect();
    saliency.sort_by(|&a, &b| at(a).total_cmp(&at(b)).then(b.cmp(&a)));
    let place = |e: usize| saliency.iter().position(|&other| other == e);
    let aligned = |a: usize, b: usize| alignment.get(a).and_then(|row| row.get(b).copied().flatten());

    let mut redundancy: Vec<Redundant> = Vec::new();
    let mut left = vec![true; experts];
    // One whose Jacobian is zero at all tokens computes nothing there.
    for &expert in &saliency {
        if experts > 1 && (0..experts).all(|other| other == expert || aligned(expert, other).is_none()) {
            left[expert] = false;
            redundancy.push(Redundant { expert, like: None, alignment: None, saliency: relative(expert) });
        }
    }
    let mut pairs: Vec<(f64, usize, usize)> = (0..experts)
        .flat_map(|a| (a + 1..experts).map(move |b| (a, b)))
        .filter_map(|(a, b)| Some((aligned(a, b)?, a, b)))
        .collect();
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    for (cosine, a, b) in pairs {
        if left[a] && left[b] {
            let (expert, like) = if place(a) < place(b) { (a, b) } else { (b, a) };
            left[expert] = false;
            let alignment = Some(cosine);
            redundancy.push(Redundant { expert, like: Some(like), alignment, saliency: relative(expert) });
        }
    }
    let last = saliency.iter().copied().filter(|&expert| left[expert]);
    redundancy.extend(last.map(|expert| Redundant { expert, like: None, alignment: None, saliency: relative(expert) }));
    PrunedLayer { layer: outputs.layer, redundancy, saliency }
}

/// The losses of the model on the text without the least needed experts of `layers`, in all of them at once.
///
/// # Errors
/// [`Error::Data`] when a loss is not finite; [`Error::Shape`] when the windows are not of `seq` tokens; [`Error::Device`].
pub async fn prune(
    gpu: &Gpu,
    model: &dyn ModelParts,
    (seq, text): (usize, &SourceWindows),
    layers: Vec<PrunedLayer>,
    seed: u64,
) -> Result<Pruning> {
    let moe = &model.config().moe;
    let (experts, top_k) = (moe.experts, moe.top_k);
    let numbers = model.config().moe_layers();
    // The experts to switch off in each layer with experts, all on where the layer is not among the `layers`.
    let off = |first: &dyn Fn(&PrunedLayer) -> Vec<usize>| -> Vec<Vec<usize>> {
        let of = |number: &usize| layers.iter().find(|l| l.layer == *number).map_or(Vec::new(), first);
        numbers.iter().map(of).collect()
    };
    let mask = |off: Vec<Vec<usize>>| ExpertMask::new(gpu, experts, top_k, &off).map(Some);
    // The whole model, and for each step as many orders and draws.
    let (mut masks, mut counts, mut left_out) = (vec![None], Vec::new(), Vec::new());
    for count in SHARES.map(|share| experts / share) {
        if count == 0 || counts.contains(&count) {
            continue;
        }
        if experts - count < top_k {
            left_out.push(format!(
                "{count} of {experts} experts off were left out: {} would remain, and a token visits {top_k}",
                experts - count
            ));
            continue;
        }
        counts.push(count);
        masks.push(mask(off(&|l| l.redundancy[..count].iter().map(|r| r.expert).collect()))?);
        masks.push(mask(off(&|l| l.saliency[..count].to_vec()))?);
        for draw in 0..DRAWS {
            // Of a draw the larger sets hold the smaller ones, as by the other orders.
            let drawn = |l: &PrunedLayer| {
                let mut all = permutation(experts, seed ^ (1 << 40 | draw << 32 | l.layer as u64));
                all.truncate(count);
                all
            };
            masks.push(mask(off(&drawn))?);
        }
    }
    let found = losses(gpu, model, seq, text, &masks).await?;
    let step = |(&off, found): (&usize, &[f64])| PruningStep {
        off,
        redundancy: found[0],
        saliency: found[1],
        random: found[2..].to_vec(),
    };
    let steps = counts.iter().zip(found[1..].chunks(2 + DRAWS as usize)).map(step).collect();
    Ok(Pruning { experts, top_k, layers, loss: found[0], steps, left_out })
}

/// The mean losses over the text with each of the masks, nats a token.
async fn losses(
    gpu: &Gpu,
    model: &dyn ModelParts,
    seq: usize,
    text: &SourceWindows,
    masks: &[Option<ExpertMask>],
) -> Result<Vec<f64>> {
    let at_once = sequences_with_logits(seq, model.config().vocab) * seq;
    let (tokens, targets) = (&text.batch.tokens, &text.batch.targets);
    let mut passengers = Vec::new();
    for mask in masks {
        let passes = tokens.chunks(at_once);
        passengers.extend(passes.map(|tokens| Passenger { seq, tokens, top_k: None, mask: mask.as_ref() }));
    }
    let targets: Vec<&[u32]> = targets.chunks(at_once).collect();
    let mut sums = vec![0.0; masks.len()];
    pass_through(gpu, model, &passengers, STATES, async |i, logits: &Tensor| {
        let (mask, of_pass) = (i / targets.len(), targets[i % targets.len()]);
        let losses = token_losses(logits, &Tensor::from_u32(gpu, [of_pass.len()], of_pass)?)?;
        sums[mask] += f64::from(mean(&losses)?.to_f32().await?[0]) * of_pass.len() as f64;
        Ok(())
    })
    .await?;
    let average = |sum: f64| {
        let found = sum / text.batch.targets.len().max(1) as f64;
        let finite = || Error::Data(format!("expected a finite loss on the text, got {found}"));
        found.is_finite().then_some(found).ok_or_else(finite)
    };
    sums.into_iter().map(average).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(saliency: &[Option<f64>]) -> Outputs {
        Outputs { saliency: saliency.to_vec(), null_saliency: Some(2.0), ..Outputs::default() }
    }

    fn table(experts: usize, pairs: &[(usize, usize, f64)]) -> Pairs {
        let mut table = vec![vec![Some(0.0); experts]; experts];
        for &(a, b, x) in pairs {
            (table[a][b], table[b][a]) = (Some(x), Some(x));
        }
        table
    }

    #[test]
    fn of_two_copies_the_less_salient_goes_first_and_the_other_stays() {
        let alignment = table(4, &[(0, 2, 1.0), (0, 1, 0.5), (2, 1, 0.5), (1, 3, 0.3)]);
        let found = order(&alignment, &outputs(&[Some(4.0), Some(1.0), Some(3.0), Some(2.0)]));
        let row = |expert, like, alignment, saliency| Redundant { expert, like, alignment, saliency: Some(saliency) };
        let wanted = [
            row(2, Some(0), Some(1.0), 1.5),
            row(1, Some(0), Some(0.5), 0.5),
            row(3, Some(0), Some(0.0), 1.0),
            row(0, None, None, 2.0),
        ];
        assert_eq!(found.redundancy, wanted);
        assert_eq!(found.saliency, [1, 3, 2, 0]);
        assert_eq!(found.kept_by_redundancy(2), [0, 3]);
        assert_eq!(found.kept_by_saliency(2), [0, 2]);
    }

    #[test]
    fn experts_that_compute_nothing_go_first_and_those_without_tokens_before_their_like() {
        let mut alignment = table(3, &[(0, 1, 0.9)]);
        alignment[2] = vec![None; 3];
        alignment.iter_mut().for_each(|row| row[2] = None);
        let found = order(&alignment, &outputs(&[None, Some(1.0), Some(9.0)]));
        assert_eq!(found.redundancy.iter().map(|r| r.expert).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(
            (found.redundancy[0].like, found.redundancy[1].like, found.redundancy[1].saliency),
            (None, Some(1), None)
        );
        let alone = order(&vec![vec![Some(1.0)]], &outputs(&[Some(1.0)]));
        assert_eq!((alone.redundancy.len(), alone.redundancy[0].expert), (1, 0));
    }
}
