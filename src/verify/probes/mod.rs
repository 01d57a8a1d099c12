//! Probes of the driver: small shaders of their own, each for a class of bugs that drivers and shader compilers are known for.
//!
//! They say where to look when a kernel fails, and find what no kernel here happens to use. The WGSL is beside this file, one file a
//! subject; what a driver may do either way is told as a note.

mod control_flow;
mod memory_model;
mod numbers;
mod placement;
mod subgroups;
mod workgroup;

use super::Level;
use super::context::{Case, Context, DRIVER, Findings, Needs};
use super::shader::{Buffers, Evidence, Job, ShaderDevice, verification};
use crate::error::Result;
use crate::gpu::AdapterReport;

/// All probes that make sense on this adapter.
pub(super) fn cases(adapter: &AdapterReport) -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(workgroup::probes());
    all.extend(placement::probes());
    all.extend(control_flow::probes());
    all.extend(numbers::probes());
    all.extend(subgroups::probes(adapter));
    all.extend(memory_model::probes());
    all.into_iter().map(|probe| probe.case().variant(DRIVER)).collect()
}

/// Decides on a probe's buffers beside what the job expects.
type Judge = Box<dyn FnOnce(&Buffers, &mut Findings) + Send>;

/// A shader with what it should give.
struct Probe {
    level: Level,
    needs: Option<Needs>,
    /// The subgroup sizes that it needs; none where it has no subgroup operations.
    subgroups: bool,
    job: Job,
    judge: Judge,
}

impl Probe {
    /// A probe whose job says all that is expected.
    fn new(level: Level, name: &str, wgsl: &str, entry: &str, set: impl FnOnce(&mut Job)) -> Self {
        Self::judged(level, name, wgsl, entry, set, |_, _| {})
    }

    /// A probe whose buffers `judge` looks at.
    fn judged(
        level: Level,
        name: &str,
        wgsl: &str,
        entry: &str,
        set: impl FnOnce(&mut Job),
        judge: impl FnOnce(&Buffers, &mut Findings) + Send + 'static,
    ) -> Self {
        let mut job = Job::new(format!("probe/{name}"), wgsl, entry);
        set(&mut job);
        Self { level, needs: None, subgroups: false, job, judge: Box::new(judge) }
    }

    fn case(self) -> Case {
        let Probe { level, needs, subgroups, job, judge } = self;
        let name = job.name.clone();
        let case = Case::new(level, name, async move |context| run(context, job, subgroups, judge).await);
        needs.into_iter().fold(case, Case::needs)
    }
}

async fn run(context: &Context, job: Job, subgroups: bool, judge: Judge) -> Result<Findings> {
    let mut found = Findings::default();
    if subgroups && !context.gpu.adapter().subgroups {
        found.note("not tried: the adapter has no subgroup operations");
        return Ok(found);
    }
    // Whoever runs the cases has a bound of its own.
    let verification = verification(&ShaderDevice::of(&context.gpu), &job, None).await?;
    verification.wrong.iter().for_each(|wrong| found.wrong(wrong.clone()));
    judge(&verification.found, &mut found);
    if found.wrong.is_some() {
        found.evidence = Some(Box::new(Evidence { job, found: verification.found }));
    }
    Ok(found)
}

/// Numbers as the bytes of a buffer.
fn bytes<T: bytemuck::NoUninit>(data: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(data).to_vec()
}

/// A buffer's words; none where there is no such buffer.
fn words(buffers: &Buffers, name: &str) -> Vec<u32> {
    let bytes = buffers.get(name).map_or(&[][..], Vec::as_slice);
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::shader::Prepared;

    #[test]
    fn every_probe_is_valid_and_given_all_that_it_binds() {
        let all: Vec<Probe> = [
            workgroup::probes(),
            placement::probes(),
            control_flow::probes(),
            numbers::probes(),
            subgroups::all(64),
            memory_model::probes(),
        ]
        .into_iter()
        .flatten()
        .collect();
        assert!(all.len() > 25, "{}", all.len());
        for probe in &all {
            Prepared::new(&probe.job).unwrap_or_else(|e| panic!("{e}"));
        }
        let mut names: Vec<&str> = all.iter().map(|p| p.job.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
