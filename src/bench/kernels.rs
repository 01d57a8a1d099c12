//! Where a training step's time goes: its kernels by timestamp queries, and what lies between them.

use std::time::Instant;

use super::ceiling::{Ceiling, Rates};
use super::shapes::d256;
use super::training::Session;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu};
use crate::train::config::RunConfig;

/// Steps before the one that is looked at: in the steady state nothing is compiled or allocated.
const WARM_UP: usize = 3;

/// Seconds of a step by where they went.
#[derive(Debug, Default)]
struct Account {
    kernels: Vec<Row>,
    transfers: f64,
    between: f64,
    submissions: f64,
}

/// All calls of a kernel.
#[derive(Debug)]
struct Row {
    name: &'static str,
    calls: usize,
    seconds: f64,
    /// Seconds that it would take at the ceiling: of its products where it makes any, else of the bytes that it binds.
    at_best: f64,
}

/// Operations of a dispatch that makes products, by what its parameters say; none for other kernels.
///
/// Operations of the causal half of attention: two products forward, three for dQ, four for dK and dV, as the kernels
/// make them.
fn flop(dispatch: &Dispatch, config: &RunConfig) -> Option<f64> {
    let value = |name: &str| dispatch.params.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    let name = dispatch.kernel;
    // Rows between the experts are no work that anybody asked for.
    let pairs = (config.train.batch * config.train.seq * config.model.moe.top_k) as f64;
    if name.contains("weight_gradient") {
        return Some(2.0 * value("rows")?.min(pairs) * value("m")? * value("n")?);
    }
    if name.starts_with("grouped_gemm") {
        return Some(2.0 * value("rows")?.min(pairs) * value("n")? * value("k")?);
    }
    if name.starts_with("gemm") {
        return Some(2.0 * value("m")? * value("n")? * value("k")? * value("batch").unwrap_or(1.0));
    }
    if name.starts_with("attention") && !name.contains("delta") {
        let (seq, heads) = (value("seq")?, value("heads")?);
        let product = value("sequences")? * heads * seq * (seq + 1.0) * config.model.head_dim as f64;
        let share = heads / value("kv_heads")?;
        let part = (value("share_last")? - value("share_first")?) / share;
        return Some(match name {
            _ if name.contains("dkv") => 4.0 * product * part,
            _ if name.contains("dq") => 3.0 * product,
            _ => 2.0 * product,
        });
    }
    None
}

fn account(dispatches: &[Dispatch], rates: &Rates, config: &RunConfig) -> Account {
    let mut account = Account::default();
    for (i, one) in dispatches.iter().enumerate() {
        let seconds = one.end - one.begin;
        let of_bytes = one.bytes as f64 / rates.copy;
        let at_best = flop(one, config).map_or(of_bytes, |flop| of_bytes.max(flop / rates.product));
        match account.kernels.iter_mut().find(|row| row.name == one.kernel) {
            Some(row) => {
                row.calls += 1;
                row.seconds += seconds;
                row.at_best += at_best;
            }
            None => account.kernels.push(Row { name: one.kernel, calls: 1, seconds, at_best }),
        }
        let Some(before) = i.checked_sub(1).map(|i| &dispatches[i]) else { continue };
        let gap = (one.begin - before.end).max(0.0);
        if one.transfers_before > 0 {
            account.transfers += gap;
        } else if one.submission != before.submission {
            account.submissions += gap;
        } else {
            account.between += gap;
        }
    }
    account.kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    account
}

/// The table of a step of the `small` shape, with and without decoupling.
pub(super) fn table(gpu: &Gpu, ceiling: &mut Ceiling) -> Result<String> {
    if !gpu.adapter().timestamps {
        return Ok("no table of kernels: the adapter has no timestamp queries\n".into());
    }
    let mut off = d256();
    off.spectral.enabled = false;
    let on = of_step(gpu, ceiling, "default settings", &d256())?;
    Ok(on + &of_step(gpu, ceiling, "spectral off", &off)?)
}

fn of_step(gpu: &Gpu, ceiling: &mut Ceiling, title: &str, config: &RunConfig) -> Result<String> {
    let mut session = Session::new(gpu, config)?;
    for _ in 0..WARM_UP {
        session.step()?;
    }
    let began = Instant::now();
    session.step()?;
    let plain = began.elapsed().as_secs_f64();
    let rates = ceiling.measure(gpu)?;
    // With a pass for each dispatch.
    gpu.start_profile()?;
    let began = Instant::now();
    session.step()?;
    let wall = began.elapsed().as_secs_f64();
    let dispatches = pollster::block_on(gpu.finish_trace())?;
    let account = account(&dispatches, &rates, config);
    let kernels: f64 = account.kernels.iter().map(|row| row.seconds).sum();
    let outside = wall - kernels - account.transfers - account.between - account.submissions;
    let row = |name: &str, calls: &str, seconds: f64, ceiling: String| {
        format!("{name:40} {calls:>6} {:>10.2} {:>7.2} % {ceiling:>10}", 1e3 * seconds, 100.0 * seconds / wall)
            .trim_end()
            .to_owned()
            + "\n"
    };
    let mut text = format!(
        "\nstep of d256, {title}: {:.1} ms; with a pass for each dispatch {:.1} ms, which are\n{:40} {:>6} {:>10} {:>9} {:>10}\n",
        1e3 * plain,
        1e3 * wall,
        "kernel",
        "calls",
        "ms",
        "share",
        "of ceiling"
    );
    for one in &account.kernels {
        let ceiling = format!("{:.1} %", 100.0 * one.at_best / one.seconds.max(1e-9));
        text += &row(one.name, &one.calls.to_string(), one.seconds, ceiling);
    }
    text += &row("all kernels", &dispatches.len().to_string(), kernels, String::new());
    for (name, seconds) in [
        ("copies and clears", account.transfers),
        ("between kernels", account.between),
        ("between submissions", account.submissions),
        ("recording before the first, end", outside),
        ("all that is no kernel", wall - kernels),
    ] {
        text += &row(name, "", seconds, String::new());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuOptions;
    use crate::nn::config::Preset;

    fn dispatch(kernel: &'static str, begin: f64, end: f64, submission: usize, transfers_before: usize) -> Dispatch {
        let params = [("m", 10.0), ("n", 10.0), ("k", 5.0), ("batch", 2.0)].map(|(n, v)| (n.to_owned(), v)).into();
        Dispatch { kernel, begin, end, bytes: 100, params, submission, transfers_before }
    }

    #[test]
    fn every_moment_between_the_first_and_the_last_kernel_is_accounted_for() {
        let steps = [
            dispatch("gemm_plain", 0.0, 1.0, 0, 0),
            dispatch("add", 1.5, 2.0, 0, 0),
            dispatch("add", 2.25, 3.0, 0, 1),
            dispatch("gemm_plain", 7.0, 8.0, 1, 0),
        ];
        let rates = Rates { product: 4000.0, copy: 1000.0, cpu: 1.0 };
        let account = account(&steps, &rates, &d256());
        let found: Vec<_> = account.kernels.iter().map(|r| (r.name, r.calls, r.seconds)).collect();
        assert_eq!(found, [("gemm_plain", 2, 2.0), ("add", 2, 1.25)]);
        assert_eq!((account.between, account.transfers, account.submissions), (0.5, 0.25, 4.0));
        // 2 * 10 * 10 * 5 * 2 operations at 4000 a second, twice; 100 bytes at 1000 a second, twice.
        assert!((account.kernels[0].at_best - 1.0).abs() < 1e-12, "{account:?}");
        assert!((account.kernels[1].at_best - 0.2).abs() < 1e-12, "{account:?}");
    }

    #[test]
    fn the_products_of_a_step_are_all_counted() {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default())).unwrap();
        if !gpu.adapter().timestamps {
            return;
        }
        let mut config = RunConfig::preset(Preset::Tiny);
        config.spectral.enabled = false;
        let mut session = Session::new(&gpu, &config).unwrap();
        gpu.start_profile().unwrap();
        session.step().unwrap();
        let dispatches = pollster::block_on(gpu.finish_trace()).unwrap();
        let products = dispatches.iter().filter(|d| d.kernel.contains("gemm") || d.kernel.contains("weight_gradient"));
        let total: f64 = products.map(|d| flop(d, &config).unwrap_or_else(|| panic!("{d:?}"))).sum();
        // Forward, input gradient and weight gradient of every matrix that a token meets, the tied head included.
        let m = &config.model;
        let attention = m.d_model * m.head_dim * 2 * (m.heads + m.kv_heads);
        let experts = 3 * m.d_model * (m.moe.top_k * m.moe.d_expert + m.moe.d_shared) + m.d_model * m.moe.experts;
        let weights = m.layers * (attention + experts) + m.d_model * m.vocab;
        let expected = 6.0 * (config.train.batch * config.train.seq * weights) as f64;
        assert!((total / expected - 1.0).abs() < 1e-9, "{total} and {expected}");
        let attention = dispatches.iter().filter(|d| d.kernel.starts_with("attention") && !d.kernel.contains("delta"));
        let total: f64 = attention.map(|d| flop(d, &config).unwrap_or_else(|| panic!("{d:?}"))).sum();
        let product = config.train.batch * m.heads * config.train.seq * (config.train.seq + 1) * m.head_dim;
        assert_eq!(total, (9 * m.layers * product) as f64);
    }
}
