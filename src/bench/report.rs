//! The figures: a line for a person, an object for a program.

use std::fmt::Write;

use serde::Serialize;

use crate::train::memory::MemoryReport;

/// A kernel that computed products of a case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Kernel {
    /// Its name, as in [`crate::low_level::catalog`].
    pub kernel: &'static str,
    /// The shape that it ran in, where it has several: rows and columns of a tile, what a thread has of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
}

/// The figures of one case. A figure that does not apply is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// The case's name.
    pub case: String,
    /// Milliseconds of a run, median over the rounds.
    pub median_ms: f64,
    /// Milliseconds of the fastest round.
    pub best_ms: f64,
    /// Range from 10 % to 90 % of the rounds' times, over the median.
    pub spread: f64,
    /// Useful floating-point operations, 1e9 a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    /// Bytes that had to be moved, 1e9 a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbytes_per_s: Option<f64>,
    /// Share of the adapter's best product rate, or of its copy bandwidth where bytes are what counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_ceiling: Option<f64>,
    /// Rate over that of nalgebra on one thread of the CPU: of its f32 product of 1024 x 1024 x 1024 in the same round,
    /// or of its full SVD of the same size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_cpu: Option<f64>,
    /// `ratio_to_cpu` of the fastest rounds of both: what a machine shows that nobody else uses meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_ratio_to_cpu: Option<f64>,
    /// Rate over that of the dense product of the same form, of aligned sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_dense: Option<f64>,
    /// `ratio_to_dense` of the fastest rounds of both: what a machine shows that nobody else uses meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_ratio_to_dense: Option<f64>,
    /// The time in a comparison over the baseline's, median of the rounds' pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// `ratio` of the fastest rounds of both: what a machine shows that nobody else uses meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_ratio: Option<f64>,
    /// Tokens of a training step a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Rounds that were made.
    pub rounds: usize,
    /// For products: the kernels that ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<Kernel>,
    /// For a training step: where the memory of the device is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryReport>,
}

/// The heads of [`Figures::line`]'s columns.
pub(super) fn heads() -> String {
    format!(
        "{:34} {:>9} {:>9} {:>7} {:>7} {:>6} {:>7} {:>13} {:>13} {:>13} {:>8}\n",
        "case",
        "median ms",
        "best",
        "spread",
        "GFLOP/s",
        "GB/s",
        "ceiling",
        "/ CPU, best",
        "/ dense, best",
        "ratio, best",
        "tokens/s"
    )
}

impl Figures {
    /// Makes the figures of a ceiling: work of `amount` at `rate`.
    pub(super) fn ceiling(name: &str, amount: f64, rate: f64) -> Self {
        Self { case: name.into(), median_ms: 1e3 * amount / rate, best_ms: 1e3 * amount / rate, ..Self::default() }
    }

    /// A line of the table.
    pub(super) fn line(&self) -> String {
        let number = |x: Option<f64>, width: usize, digits: usize| match x {
            Some(x) => format!(" {x:width$.digits$}"),
            None => " ".repeat(width + 1),
        };
        let percent = |x: Option<f64>, width: usize| match x {
            Some(x) => format!(" {:w$.1} %", 100.0 * x, w = width - 2),
            None => " ".repeat(width + 1),
        };
        let both = |median: Option<f64>, best: Option<f64>| number(median, 6, 3) + &number(best, 6, 3);
        let line = [
            format!("{:34}", self.case),
            number(Some(self.median_ms), 9, 2),
            number(Some(self.best_ms), 9, 2),
            percent(Some(self.spread), 7),
            number(self.gflops, 7, 1),
            number(self.gbytes_per_s, 6, 2),
            percent(self.share_of_ceiling, 7),
            both(self.ratio_to_cpu, self.best_ratio_to_cpu),
            both(self.ratio_to_dense, self.best_ratio_to_dense),
            both(self.ratio, self.best_ratio),
            number(self.tokens_per_second, 8, 0),
        ]
        .concat();
        format!("{}\n", line.trim_end())
    }
}

/// The kernels that computed the products of each case; empty where `figures` have none.
pub(super) fn kernels(figures: &[Figures]) -> String {
    let lines = figures.iter().flat_map(|one| {
        one.kernels.iter().enumerate().map(|(i, Kernel { kernel, shape })| {
            let case = if i == 0 { one.case.as_str() } else { "" };
            let line = format!("{case:34} {kernel:40} {}", shape.as_deref().unwrap_or_default());
            format!("{}\n", line.trim_end())
        })
    });
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n{:34} {:40} shape\n{lines}", "case", "kernel") }
}

/// Where the memory of training steps is, a column for each; empty where `figures` have none.
pub(super) fn memory(figures: &[Figures]) -> String {
    let columns: Vec<_> = figures.iter().filter_map(|one| Some((&one.case, one.memory.as_ref()?))).collect();
    let Some((_, first)) = columns.first() else { return String::new() };
    let width = columns.iter().map(|(case, _)| case.len()).max().unwrap_or_default().max(10) + 2;
    let mut text = format!("\n{:34}", "memory of a step, MiB");
    for (case, _) in &columns {
        let _ = write!(text, "{case:>width$}");
    }
    text.push('\n');
    for (i, (kind, _)) in first.kinds().iter().enumerate() {
        let _ = write!(text, "{kind:34}");
        for (_, report) in &columns {
            let _ = write!(text, "{:>width$.2}", report.kinds()[i].1 as f64 / f64::from(1 << 20));
        }
        text.push('\n');
    }
    let _ = write!(text, "{:34}", "peak over the sum");
    for (_, report) in &columns {
        let _ = write!(text, "{:>width$.3}", report.peak_ratio());
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_listed_by_case() {
        assert_eq!(kernels(&[Figures::default()]), "");
        let kernel = |kernel, shape: Option<&str>| Kernel { kernel, shape: shape.map(str::to_owned) };
        let cut = vec![kernel("gemm_workgroup_8x8", Some("64 x 64")), kernel("gemm_sum_parts", None)];
        let text = kernels(&[Figures { case: "gemm.nn".into(), kernels: cut, ..Figures::default() }]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[2], ["gemm.nn", "gemm_workgroup_8x8", "64", "x", "64"]);
        assert_eq!(rows[3], ["gemm_sum_parts"]);
    }

    #[test]
    fn memory_has_a_column_for_each_step_that_knows_it() {
        let step = |case: &str, weights| {
            let report = MemoryReport { weights, peak: 3 * weights, ..MemoryReport::default() };
            Figures { case: case.into(), memory: Some(report), ..Figures::default() }
        };
        assert_eq!(memory(&[Figures::default()]), "");
        let text = memory(&[step("step.a", 1 << 20), Figures::default(), step("step.b.recompute", 5 << 19)]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1][5..], ["step.a", "step.b.recompute"]);
        assert_eq!(rows[2], ["weights", "1.00", "2.50"]);
        assert_eq!(rows[9], ["peak", "3.00", "7.50"]);
        assert_eq!(rows[10], ["peak", "over", "the", "sum", "3.000", "3.000"]);
    }
}
