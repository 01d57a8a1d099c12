//! A case: work that is measured as a whole, and what its time is set against.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::train::config::RunConfig;

/// Records one run of the work; the harness waits for the device.
pub(super) type Record = Box<dyn FnMut() -> Result<()>>;

/// Puts the work on a device; none where it is that of the case that `Facts::same_as` names, or not possible.
type Make = Box<dyn FnOnce(&Gpu) -> Result<Option<Record>>>;

/// Work with a name, not yet on the device: what is not asked for takes no memory.
pub(super) struct Case {
    pub(super) facts: Facts,
    pub(super) make: Make,
}

/// The facts on a case beside its time.
#[derive(Default)]
pub(super) struct Facts {
    /// The name in the report; stable, scripts read it.
    pub(super) name: String,
    /// Floating-point operations of a run; 0 where bytes are what counts.
    pub(super) flop: f64,
    /// Bytes that a run must move at least; 0 where they are not what counts.
    pub(super) bytes: f64,
    /// Tokens of a run; 0 where there are none.
    pub(super) tokens: f64,
    /// The case whose rate `ratio_to_dense` is relative to.
    pub(super) dense: Option<String>,
    /// The two cases whose times `ratio` compares.
    pub(super) comparison: Option<Comparison>,
    /// Work that comes with a run now and then: the case that measures it, and how much of it comes with one run.
    pub(super) shares: Option<(String, f64)>,
    /// Seconds of the same work on the CPU, measured once; none where nalgebra's product is the yardstick.
    pub(super) on_cpu: Option<fn() -> f64>,
    /// The case whose work this one may turn out to be: it is measured once.
    pub(super) same_as: Option<String>,
    /// The training run whose memory is wanted.
    pub(super) memory_of: Option<RunConfig>,
    /// Whether a quick run leaves it out.
    pub(super) long: bool,
}

/// `ratio` = `factor` times the case's time over that of `baseline`, paired by round.
#[derive(Clone)]
pub(super) struct Comparison {
    pub(super) baseline: String,
    pub(super) factor: f64,
}

impl Case {
    pub(super) fn new(name: impl Into<String>, make: impl FnOnce(&Gpu) -> Result<Record> + 'static) -> Self {
        let make = Box::new(|gpu: &Gpu| make(gpu).map(Some));
        Self { facts: Facts { name: name.into(), ..Facts::default() }, make }
    }

    /// A case that has the figures of `other` on devices where `make` gives none.
    pub(super) fn or_same_as(
        name: impl Into<String>,
        other: impl Into<String>,
        make: impl FnOnce(&Gpu) -> Result<Option<Record>> + 'static,
    ) -> Self {
        let facts = Facts { name: name.into(), same_as: Some(other.into()), ..Facts::default() };
        Self { facts, make: Box::new(make) }
    }

    /// A case that is left out on devices where `make` gives none.
    pub(super) fn where_possible(
        name: impl Into<String>,
        make: impl FnOnce(&Gpu) -> Result<Option<Record>> + 'static,
    ) -> Self {
        Self { facts: Facts { name: name.into(), ..Facts::default() }, make: Box::new(make) }
    }

    fn with(mut self, set: impl FnOnce(&mut Facts)) -> Self {
        set(&mut self.facts);
        self
    }

    pub(super) fn flop(self, flop: f64) -> Self {
        self.with(|facts| facts.flop = flop)
    }

    pub(super) fn bytes(self, bytes: f64) -> Self {
        self.with(|facts| facts.bytes = bytes)
    }

    pub(super) fn tokens(self, tokens: usize) -> Self {
        self.with(|facts| facts.tokens = tokens as f64)
    }

    pub(super) fn dense(self, name: impl Into<String>) -> Self {
        self.with(|facts| facts.dense = Some(name.into()))
    }

    pub(super) fn against(self, baseline: impl Into<String>, factor: f64) -> Self {
        self.with(|facts| facts.comparison = Some(Comparison { baseline: baseline.into(), factor }))
    }

    pub(super) fn with_share(self, of: impl Into<String>, share: f64) -> Self {
        self.with(|facts| facts.shares = Some((of.into(), share)))
    }

    pub(super) fn on_cpu(self, seconds: fn() -> f64) -> Self {
        self.with(|facts| facts.on_cpu = Some(seconds))
    }

    pub(super) fn memory_of(self, config: RunConfig) -> Self {
        self.with(|facts| facts.memory_of = Some(config))
    }

    pub(super) fn long(self, long: bool) -> Self {
        self.with(|facts| facts.long = long)
    }
}

impl Facts {
    /// Whether the case is a product, or a block that is little else.
    pub(super) fn of_products(&self) -> bool {
        ["gemm.", "experts."].iter().any(|suite| self.name.starts_with(suite))
    }

    /// The cases that it is set against.
    fn needs(&self) -> impl Iterator<Item = &String> {
        let baseline = self.comparison.as_ref().map(|c| &c.baseline);
        self.dense.iter().chain(baseline).chain(&self.same_as).chain(self.shares.as_ref().map(|(of, _)| of))
    }
}

/// Cases that are measured together, round by round.
pub(super) type Group = Vec<Case>;

/// Leaves out what is not `wanted`, but for what the rest is set against.
pub(super) fn select(group: Group, wanted: impl Fn(&Facts) -> bool) -> Group {
    let all = || group.iter().map(|case| &case.facts);
    let mut keep: Vec<String> = all().filter(|facts| wanted(facts)).map(|facts| facts.name.clone()).collect();
    let mut next = 0;
    while let Some(name) = keep.get(next) {
        let needs = all().filter(|facts| facts.name == *name).flat_map(Facts::needs);
        let more: Vec<String> = needs.filter(|n| !keep.contains(n)).cloned().collect();
        keep.extend(more);
        next += 1;
    }
    group.into_iter().filter(|case| keep.contains(&case.facts.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_case_is_set_against_stays() {
        let case = |name: &str| Case::new(name, |_| Ok(Box::new(|| Ok(())) as Record));
        let group =
            || vec![case("a"), case("b").dense("a"), case("c").against("b", 1.0), case("d").with_share("c", 0.5)];
        let names = |wanted: &str| {
            select(group(), |f| f.name == wanted).into_iter().map(|c| c.facts.name).collect::<Vec<_>>().concat()
        };
        assert_eq!(["a", "b", "c", "d", "e"].map(names), ["a", "ab", "abc", "abcd", ""]);
    }
}
