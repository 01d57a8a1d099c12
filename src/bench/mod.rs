//! `sdmoe bench`: how fast the kernels and the training step are, against what the adapter and the CPU can do.
//!
//! Cases are measured in groups, round by round, each round together with the ceilings (`ceiling`), so that a ratio
//! means something on a machine whose speed drifts; a comparison is the median of its rounds' paired ratios.
//!
//! The bench is a part of the program: it reads the clock and blocks. No module that trains may use it.

mod block;
mod case;
mod ceiling;
mod kernels;
mod measure;
mod ops;
mod products;
mod report;
pub mod shapes;
mod svd;
mod training;
pub mod tune;

use std::fmt::Write;

pub use report::{Figures, Kernel};

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use case::{Facts, Group, select};
use ceiling::{COPY_BYTES, Ceiling, PRODUCT_FLOP, Rates};

/// A set of cases that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Dense products.
    Gemm,
    /// Grouped products of experts, and the whole block.
    Experts,
    /// Attention, forward and backward.
    Attention,
    /// Norms and other ops of rows.
    Norms,
    /// The randomized SVD.
    Svd,
    /// Spectral decoupling on against off.
    Spectral,
    /// A training step, and where its time goes.
    Step,
}

impl Suite {
    /// All of them, in the order of the report.
    pub const ALL: [Suite; 7] =
        [Suite::Gemm, Suite::Experts, Suite::Attention, Suite::Norms, Suite::Svd, Suite::Spectral, Suite::Step];

    fn groups(self) -> Vec<Group> {
        match self {
            Suite::Gemm => vec![products::gemms()],
            Suite::Experts => vec![products::experts()],
            Suite::Attention => vec![ops::attentions()],
            Suite::Norms => vec![ops::norms()],
            Suite::Svd => vec![svd::svds()],
            Suite::Spectral => training::spectral(),
            Suite::Step => vec![training::steps()],
        }
    }
}

/// More rounds tell nothing more.
const MAX_ROUNDS: usize = 10_000;
/// A day.
const MAX_SECONDS: f64 = 86_400.0;

/// How long to measure.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// Only cases whose name contains this, and what they are set against.
    pub filter: Option<String>,
    /// Rounds of each group of cases.
    pub rounds: usize,
    /// Seconds after which a group ends before its last round, once it has three.
    pub seconds: f64,
    /// One round of one run, and no case that takes long: to see that everything runs.
    pub quick: bool,
    /// A list of the kernels of products, and of the shapes in which they ran.
    pub shapes: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { filter: None, rounds: 7, seconds: 40.0, quick: false, shapes: false }
    }
}

setters!(Options {
    filter: impl Into<Option<String>>,
    rounds: usize,
    seconds: f64,
    quick: bool,
    shapes: bool
});

/// The cases that are to be measured; made before a device is opened.
pub struct Plan {
    groups: Vec<Group>,
    /// Whether the table of kernels is wanted.
    table: bool,
    options: Options,
}

impl Plan {
    /// The cases of `suites`.
    ///
    /// # Errors
    /// [`Error::Config`] when the filter leaves none, and for a number of rounds or seconds that is none.
    pub fn new(suites: &[Suite], options: Options) -> Result<Self> {
        if !(1..=MAX_ROUNDS).contains(&options.rounds) {
            let expected = if options.rounds == 0 { "at least 1".into() } else { format!("at most {MAX_ROUNDS}") };
            return Err(Error::config("--rounds", format!("expected {expected}, got {}", options.rounds)));
        }
        if !(0.0..=MAX_SECONDS).contains(&options.seconds) {
            let message = format!("expected a number of at least 0 and at most {MAX_SECONDS}, got {}", options.seconds);
            return Err(Error::config("--seconds", message));
        }
        let all: Vec<Group> = suites.iter().flat_map(|suite| suite.groups()).collect();
        let known: Vec<String> = all.iter().flatten().map(|case| case.facts.name.clone()).collect();
        let named = |name: &str| options.filter.as_ref().is_none_or(|part| name.contains(part.as_str()));
        let wanted = |facts: &Facts| named(&facts.name) && !(options.quick && facts.long);
        let groups: Vec<Group> =
            all.into_iter().map(|group| select(group, wanted)).filter(|group| !group.is_empty()).collect();
        if groups.is_empty() {
            let filter = options.filter.as_deref().unwrap_or_default();
            let message = format!("no case contains `{filter}`; there are {}", known.join(", "));
            return Err(Error::config("--filter", message));
        }
        let table =
            suites.contains(&Suite::Step) && groups.iter().flatten().any(|case| case.facts.name.starts_with("step."));
        Ok(Self { groups, table, options })
    }

    /// The cases, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().flatten().map(|case| case.facts.name.as_str())
    }

    /// Measures, handing out the report as it grows; blocks until the end.
    ///
    /// # Errors
    /// [`Error::Device`]; what `print` returns.
    pub fn run(self, gpu: &Gpu, mut print: impl FnMut(&str) -> Result<()>) -> Result<Vec<Figures>> {
        let mut ceiling = Ceiling::new(gpu)?;
        let rates = typical(gpu, &mut ceiling, if self.options.quick { 1 } else { 3 })?;
        print(&header(gpu, &rates))?;
        let mut all = vec![
            Figures {
                gflops: Some(rates.product / 1e9),
                ..Figures::ceiling("ceiling.gemm", PRODUCT_FLOP, rates.product)
            },
            Figures {
                gbytes_per_s: Some(rates.copy / 1e9),
                ..Figures::ceiling("ceiling.copy", COPY_BYTES, rates.copy)
            },
            Figures { gflops: Some(rates.cpu / 1e9), ..Figures::ceiling("ceiling.cpu", PRODUCT_FLOP, rates.cpu) },
        ];
        for group in self.groups {
            let measured = measure::measure(gpu, group, &mut ceiling, &self.options)?;
            for figures in &measured {
                print(&figures.line())?;
            }
            if self.options.shapes {
                print(&report::kernels(&measured))?;
            }
            print(&report::memory(&measured))?;
            for figures in measured {
                // Two groups can be set against the same case.
                if all.iter().all(|other| other.case != figures.case) {
                    all.push(figures);
                }
            }
        }
        if self.table {
            print(&kernels::table(gpu, &mut ceiling)?)?;
        }
        Ok(all)
    }
}

/// The median of some moments.
fn typical(gpu: &Gpu, ceiling: &mut Ceiling, moments: usize) -> Result<Rates> {
    let rates = (0..moments).map(|_| ceiling.measure(gpu)).collect::<Result<Vec<Rates>>>()?;
    let median = |of: fn(&Rates) -> f64| measure::quantile(&rates.iter().map(of).collect::<Vec<_>>(), 0.5);
    Ok(Rates { product: median(|r| r.product), copy: median(|r| r.copy), cpu: median(|r| r.cpu) })
}

fn header(gpu: &Gpu, rates: &Rates) -> String {
    let adapter = gpu.adapter();
    let mut text = String::new();
    let _ = writeln!(text, "adapter  {} ({}, {})", adapter.name, adapter.backend, adapter.driver);
    let _ = writeln!(text, "kernels  {:?}", gpu.tier());
    let _ = writeln!(
        text,
        "ceiling  {:.1} GFLOP/s (best f32 product of 1024 x 1024 x 1024), {:.1} GB/s (copy of 64 MiB)",
        rates.product / 1e9,
        rates.copy / 1e9
    );
    let _ = writeln!(text, "CPU      {:.1} GFLOP/s (nalgebra's f32 product, one thread)\n", rates.cpu / 1e9);
    text + &report::heads()
}
