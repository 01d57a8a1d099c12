//! Measuring a group of cases: round by round, so that a busy machine slows all of them alike, and ratios by round.
//!
//! Times are by the host's clock, from recording to the end on the device: that is what a caller waits for, it exists
//! on every adapter, and it is the clock of the CPU yardstick. Timestamp queries, which leave out recording and
//! submission, are for the table of kernels only.

use std::time::Instant;

use super::Options;
use super::case::{Case, Facts, Group, Record};
use super::ceiling::{Ceiling, Rates, seconds};
use super::report::{Figures, Kernel};
use super::training::memory;
use crate::error::Result;
use crate::gpu::{Gpu, Launched};
use crate::kernels::cuts::described;

/// The shortest time that one measurement should take: some hundred times the cost of a submission.
const LEAST: f64 = 0.04;
/// Rounds that are made however long they take: the fewest with a median between others.
const FEWEST: usize = 3;

struct Running {
    facts: Facts,
    record: Record,
    repeats: usize,
    /// The kernels of its products.
    kernels: Vec<Kernel>,
    /// Seconds of a run in each round.
    times: Vec<f64>,
}

/// Measures the cases of a group; the figures come in their order, second names of a case last.
pub(super) fn measure(gpu: &Gpu, group: Group, ceiling: &mut Ceiling, options: &Options) -> Result<Vec<Figures>> {
    let began = Instant::now();
    let (mut running, mut names) = (Vec::new(), Vec::new());
    for Case { facts, make } in group {
        let Some(mut record) = make(gpu)? else {
            names.push(facts);
            continue;
        };
        // The first run compiles and touches memory for the first time.
        gpu.start_noting();
        let first = seconds(gpu, &mut record, 1)?;
        let launched = gpu.finish_noting();
        let kernels = if facts.of_products() { products(launched) } else { Vec::new() };
        let again = if first < 1.0 { seconds(gpu, &mut record, 1)? } else { first };
        let repeats = if options.quick { 1 } else { (LEAST / again).ceil().clamp(1.0, 1000.0) as usize };
        running.push(Running { facts, record, repeats, kernels, times: Vec::new() });
    }
    let mut rates = Vec::new();
    let rounds = if options.quick { 1 } else { options.rounds };
    for round in 0..rounds {
        if round >= FEWEST && began.elapsed().as_secs_f64() > options.seconds {
            break;
        }
        rates.push(ceiling.measure(gpu)?);
        // There and back: of two cases each comes first as often, so a machine that slows down favours neither.
        let mut order: Vec<usize> = (0..running.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let one = &mut running[i];
            let time = seconds(gpu, &mut one.record, one.repeats)?;
            one.times.push(time);
        }
    }
    let mut all: Vec<Figures> = running.iter().map(|one| figures(one, &running, &rates, options)).collect();
    for (figures, one) in all.iter_mut().zip(&running) {
        figures.memory = one.facts.memory_of.as_ref().map(|config| memory(gpu, config)).transpose()?;
    }
    for facts in names {
        let other = all.iter().find(|other| Some(&other.case) == facts.same_as.as_ref()).cloned();
        all.extend(other.map(|other| Figures { case: facts.name, ..other }));
    }
    Ok(all)
}

/// The kernels of products among those that were launched.
fn products(launched: Vec<Launched>) -> Vec<Kernel> {
    let of_products =
        launched.into_iter().filter(|one| one.kernel.contains("gemm") || one.kernel.contains("weight_gradient"));
    let named = |one: Launched| Kernel { kernel: one.kernel, shape: described(one.kernel, &one.constants) };
    let mut kernels: Vec<Kernel> = Vec::new();
    for kernel in of_products.map(named) {
        if !kernels.contains(&kernel) {
            kernels.push(kernel);
        }
    }
    kernels
}

/// The `q`-quantile.
pub(super) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

fn figures(one: &Running, all: &[Running], rates: &[Rates], options: &Options) -> Figures {
    let case = &one.facts;
    let find = |name: &str| all.iter().find(|other| other.facts.name == name);
    // What comes with a run now and then is a part of it.
    let share = case.shares.as_ref().and_then(|(of, share)| Some((find(of)?, *share)));
    let times: Vec<f64> = (0..one.times.len())
        .map(|r| one.times[r] + share.map_or(0.0, |(other, share)| share * other.times[r]))
        .collect();
    let median_of = |value: &dyn Fn(usize) -> f64| {
        let values: Vec<f64> = (0..times.len()).map(value).collect();
        quantile(&values, 0.5)
    };
    let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let best = least(&times);
    let there = |amount: f64| (amount > 0.0).then_some(amount);
    // The best f32 product that the round has seen, wherever it was.
    let product = |r: usize| {
        let in_f32 = |name: &str| name.starts_with("gemm.") && !name.ends_with(".f16");
        let dense = all.iter().filter(|other| in_f32(&other.facts.name));
        dense.map(|other| other.facts.flop / other.times[r]).fold(rates[r].product, f64::max)
    };
    let median = median_of(&|r| times[r]);
    let flop_share = there(case.flop).map(|flop| median_of(&|r| flop / times[r] / product(r)));
    let byte_share = there(case.bytes).map(|bytes| median_of(&|r| bytes / times[r] / rates[r].copy));
    let ratio_to_cpu = match case.on_cpu {
        // Seconds of work: not for a quick look.
        Some(_) if options.quick => None,
        Some(cpu) => Some(cpu()).map(|seconds| (seconds / median, seconds / best)),
        None => there(case.flop).map(|flop| {
            let fastest = rates.iter().map(|rates| rates.cpu).fold(0.0, f64::max);
            (median_of(&|r| flop / times[r] / rates[r].cpu), flop / best / fastest)
        }),
    };
    let ratio_to_dense = case.dense.as_ref().and_then(|name| find(name)).map(|other| {
        let flop = case.flop / other.facts.flop;
        (median_of(&|r| flop * other.times[r] / times[r]), flop * least(&other.times) / best)
    });
    let ratio = case.comparison.as_ref().and_then(|c| Some((find(&c.baseline)?, c.factor))).map(|(other, factor)| {
        (median_of(&|r| factor * times[r] / other.times[r]), factor * best / least(&other.times))
    });
    Figures {
        case: case.name.clone(),
        median_ms: 1e3 * median,
        best_ms: 1e3 * best,
        spread: (quantile(&times, 0.9) - quantile(&times, 0.1)) / median,
        gflops: there(case.flop).map(|flop| flop / median / 1e9),
        gbytes_per_s: there(case.bytes).map(|bytes| bytes / median / 1e9),
        share_of_ceiling: flop_share.or(byte_share),
        ratio_to_cpu: ratio_to_cpu.map(|both| both.0),
        best_ratio_to_cpu: ratio_to_cpu.map(|both| both.1),
        ratio_to_dense: ratio_to_dense.map(|both| both.0),
        best_ratio_to_dense: ratio_to_dense.map(|both| both.1),
        ratio: ratio.map(|both| both.0),
        best_ratio: ratio.map(|both| both.1),
        tokens_per_second: there(case.tokens).map(|tokens| tokens / median),
        rounds: times.len(),
        kernels: one.kernels.clone(),
        memory: None,
    }
}
