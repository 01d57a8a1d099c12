//! Runs the cases, on a fresh device after a failure of one: each in a thread of its own, so that one that hangs or panics is a finding,
//! or one after the other in the thread that awaits them.

use std::collections::BTreeSet;

use pollster::block_on;

use super::cases;
use super::context::Case;
use super::dump;
use super::header::{Header, Host, header};
use super::one::{Device, HUNG, Ran, one};
use super::reference::Difference;
use super::report::{AdapterResult, Beside, CaseReport, Outcome, Report};
use super::{Event, Options, probes};
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, AdapterReport, GpuOptions, Instant, SystemTime, Tier, adapters};

/// Verifies, and tells `on` what happens; blocks until the end.
///
/// # Errors
/// [`Error::NoAdapter`], [`Error::UnknownAdapter`]; [`Error::Device`] when the adapter can run no kernel, or not the tier that was
/// asked for; [`Error::Config`] for a filter that leaves no case; [`Error::Io`] when a failure's folder cannot be written. What fails
/// on a device is no error but a finding.
pub fn run(options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<Report> {
    block_on(whole(options, true, on))
}

/// As [`run`], in the thread that awaits it, for a browser: it waits without blocking, and lets its caller go on meanwhile.
///
/// There is no [`Options::timeout`], and a case that panics ends the program where a panic does, as in a browser.
///
/// # Errors
/// As [`run`]. In a browser nothing can be written: [`Options::dump`] is [`Error::Io`] once a case fails.
pub async fn run_without_threads(options: &Options, on: &mut dyn FnMut(Event<'_>)) -> Result<Report> {
    whole(options, false, on).await
}

/// Verifies, with a thread for each case or without.
async fn whole(options: &Options, threads: bool, on: &mut dyn FnMut(Event<'_>)) -> Result<Report> {
    let mut found = adapters().await?;
    for adapter in found.iter_mut().filter(|adapter| adapter.name.is_empty()) {
        adapter.name = options.adapter_name.clone().unwrap_or_default();
    }
    let chosen: Vec<&AdapterReport> =
        if options.all { found.iter().collect() } else { vec![&found[options.gpu.adapter.among(&found)?]] };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut report =
        Report { host: Host::new(), level: options.level, seed: options.seed, unix_time: since, adapters: Vec::new() };
    let reference = options.reference.as_ref().map(|choice| choice.among(&found)).transpose()?.map(|i| &found[i]);
    for adapter in chosen {
        let beside = match reference {
            Some(other) => Some(Reference::new(other, options, threads).await?),
            None => None,
        };
        let plan = plan(adapter, options);
        require_cases(&plan, options)?;
        report.adapters.push(verify(adapter, plan, beside, threads, options, on).await?);
    }
    Ok(report)
}

/// The names of the cases that [`run`] would run, each once, in order.
///
/// # Errors
/// As [`run`] before it opens a device.
pub fn names(options: &Options) -> Result<Vec<String>> {
    let found = block_on(adapters())?;
    let adapter = &found[options.gpu.adapter.among(&found)?];
    let mut names: Vec<String> = Vec::new();
    let plan = plan(adapter, options);
    require_cases(&plan, options)?;
    for (_, cases) in plan {
        for case in cases {
            if !names.contains(&case.name) {
                names.push(case.name);
            }
        }
    }
    Ok(names)
}

/// Cases by the tier that they run on.
type Plan = Vec<(Tier, Vec<Case>)>;

/// The cases of each variant: probes of the driver on the adapter's own tier, then the kernels of every tier that it can run.
fn plan(adapter: &AdapterReport, options: &Options) -> Plan {
    let tiers: Vec<Tier> = match options.gpu.tier {
        Some(tier) => vec![tier],
        None => Tier::ALL.into_iter().filter(|tier| adapter.runs(*tier)).collect(),
    };
    let first = options.gpu.tier.unwrap_or(adapter.tier);
    let mut plan = vec![(first, probes::cases(adapter))];
    plan.extend(tiers.into_iter().map(|tier| (tier, cases::cases(tier))));
    let wanted = |case: &Case| {
        case.level <= options.level && options.filter.as_ref().is_none_or(|part| case.name.contains(part.as_str()))
    };
    plan.iter_mut().for_each(|(_, cases)| cases.retain(wanted));
    plan.retain(|(_, cases)| !cases.is_empty());
    plan
}

/// An error where there is nothing to run.
fn require_cases(plan: &Plan, options: &Options) -> Result<()> {
    if plan.is_empty() {
        let part = options.filter.as_deref().unwrap_or_default();
        return Err(Error::config("--filter", format!("no case of this level contains `{part}`; --list names them")));
    }
    Ok(())
}

/// Another adapter with its cases, which run one by one beside those of the adapter that is verified.
struct Reference {
    header: Header,
    plan: Plan,
    /// The device of this tier.
    device: Option<(Tier, Device)>,
    /// Whether each case gets a thread.
    threads: bool,
    /// Tier, group and name of a case that hung.
    hung: Option<(Tier, String, String)>,
}

impl Reference {
    /// Its cases are those of the options that it can run.
    async fn new(adapter: &AdapterReport, options: &Options, threads: bool) -> Result<Self> {
        let header = header(adapter).await?;
        let wanted = |tier: &Tier| adapter.runs(*tier);
        let plan = plan(adapter, options).into_iter().filter(|(tier, _)| wanted(tier)).collect();
        Ok(Self { header, plan, device: None, threads, hung: None })
    }

    /// Runs the case of this name and variant, where there is one.
    async fn run(&mut self, name: &str, variant: Option<&str>, tier: Tier, options: &Options) -> Option<Ran> {
        let same = |case: &Case| case.name == name && case.variant.as_deref() == variant;
        let mut of_tier = self.plan.iter_mut().filter(|(other, _)| *other == tier);
        let case = of_tier.find_map(|(_, cases)| cases.iter().position(same).map(|i| cases.remove(i)))?;
        let group = case.group().to_owned();
        if self.device.as_ref().is_none_or(|(open, _)| *open != tier) {
            let adapter = AdapterChoice::Index(self.header.adapter.index);
            let matrix_units =
                options.gpu.matrix_units && tier == Tier::Gpu && self.header.adapter.matrix_block.is_some();
            let device = GpuOptions { adapter, tier: Some(tier), matrix_units, ..options.gpu.clone() };
            self.device = Some((tier, Device::new(device, self.threads)));
        }
        let (_, device) = self.device.as_mut()?;
        let hung = self.hung.as_ref().filter(|(t, g, _)| *t == tier && *g == group).map(|(_, _, name)| name.as_str());
        let ran = one(case, tier, &self.header, device, hung, options, &mut |_| {}).await;
        if hangs(&ran.report) {
            self.hung = Some((tier, group, name.to_owned()));
        }
        Some(ran)
    }
}

/// Whether a case took too long.
fn hangs(case: &CaseReport) -> bool {
    matches!(&case.outcome, Outcome::Failed { message } if message.starts_with(HUNG))
}

/// Verifies one adapter with the cases of `plan`, beside another where one is named.
async fn verify(
    adapter: &AdapterReport,
    plan: Plan,
    mut beside: Option<Reference>,
    threads: bool,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Result<AdapterResult> {
    let started = Instant::now();
    let header = header(adapter).await?;
    on(Event::Adapter(&header));
    on(Event::Planned(plan.iter().map(|(_, cases)| cases.len()).sum()));
    let (mut cases, mut kernels): (Vec<CaseReport>, BTreeSet<&'static str>) = Default::default();
    for (tier, planned) in plan {
        let wanted =
            GpuOptions { adapter: AdapterChoice::Index(adapter.index), tier: Some(tier), ..options.gpu.clone() };
        let matrix_units = wanted.matrix_units && tier == Tier::Gpu && adapter.matrix_block.is_some();
        let mut device = Device::new(GpuOptions { matrix_units, ..wanted }, threads);
        // A tier that nobody can open is the caller's mistake, where it is the one that was asked for.
        if let Err(error) = device.get().await
            && options.gpu.tier.is_some()
        {
            return Err(error);
        }
        let mut group = String::new();
        let mut first = cases.len();
        let mut hung: Option<String> = None;
        let mut dumped = false;
        for case in planned {
            if case.group() != group {
                if cases.len() > first {
                    on(Event::Group(&cases[first..]));
                }
                (group, first, hung, dumped) = (case.group().to_owned(), cases.len(), None, false);
            }
            let (name, variant) = (case.name.clone(), case.variant.clone());
            let Ran { report: mut one, evidence, results } =
                one(case, tier, &header, &mut device, hung.as_deref(), options, on).await;
            let other = match &mut beside {
                Some(other) => other.run(&name, variant.as_deref(), tier, options).await,
                None => None,
            };
            one.reference = other.map(|other| Beside {
                outcome: other.report.outcome,
                difference: Difference::between(&results, &other.results),
            });
            // A group's smallest shape comes first, so that what fails first is the smallest that does.
            if let (Outcome::Failed { .. }, Some(folder), false) = (&one.outcome, &options.dump, dumped) {
                let path = dump::write(folder, &header, &one, tier, options, evidence.as_deref())?;
                one.notes.push(format!("run it again alone: sdmoe verify --replay {}", path.display()));
                dumped = true;
            }
            if hangs(&one) {
                hung = Some(one.name.clone());
            }
            on(Event::Case(&one));
            cases.push(one);
        }
        on(Event::Group(&cases[first..]));
        kernels.extend(device.kernels);
    }
    let reference = beside.map(|other| other.header.title());
    Ok(AdapterResult { header, reference, cases, kernels, seconds: started.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tensor::Tensor;
    use crate::verify::Level;
    use crate::verify::context::{Context, Findings};

    /// A case of this name.
    fn case(name: &str, work: impl AsyncFnOnce(&Context) -> Result<Findings> + Send + 'static) -> Case {
        Case::new(Level::Quick, name, work)
    }

    /// Runs cases, with a thread for each or without; the outcomes, and after which cases a device was opened anew.
    fn outcomes(threads: bool, cases: Vec<Case>) -> (Vec<CaseReport>, Vec<String>) {
        let found = block_on(adapters()).unwrap();
        let adapter = &found[AdapterChoice::Auto.among(&found).unwrap()];
        let options = Options { timeout: Duration::from_secs(5), ..Options::default() };
        let mut reopened = Vec::new();
        let mut on = |event: Event<'_>| {
            if let Event::Reopened(name) = event {
                reopened.push(name.to_owned());
            }
        };
        let plan = vec![(adapter.tier, cases)];
        let result = block_on(verify(adapter, plan, None, threads, &options, &mut on)).unwrap();
        (result.cases, reopened)
    }

    async fn passes(context: &Context) -> Result<Findings> {
        let x = Tensor::from_f32(&context.gpu, [2], &[1.0, 2.0])?;
        assert_eq!(x.to_f32().await?, [1.0, 2.0]);
        Ok(Findings::default())
    }

    fn message(case: &CaseReport) -> &str {
        match &case.outcome {
            Outcome::Failed { message } => message,
            other => other.name(),
        }
    }

    #[test]
    fn a_lost_device_is_a_finding_and_the_rest_goes_on_on_a_fresh_one() {
        let lose = async |context: &Context| {
            context.gpu.device().destroy();
            passes(context).await
        };
        for threads in [true, false] {
            let all = vec![case("a/first", passes), case("a/lost", lose), case("b/last", passes)];
            let (cases, reopened) = outcomes(threads, all);
            assert_eq!(cases[0].outcome, Outcome::Passed);
            assert!(message(&cases[1]).contains("lost"), "{cases:?}");
            assert_eq!(cases[2].outcome, Outcome::Passed);
            assert_eq!(reopened, ["a/lost"]);
        }
    }

    #[test]
    fn a_case_that_panics_is_a_finding() {
        let panics = async |_: &Context| panic!("of the driver");
        for threads in [true, false] {
            let (cases, reopened) = outcomes(threads, vec![case("a/panics", panics), case("a/next", passes)]);
            assert_eq!(message(&cases[0]), "panicked: of the driver");
            assert_eq!(cases[1].outcome, Outcome::Passed);
            assert_eq!(reopened, ["a/panics"]);
        }
    }

    #[test]
    fn a_case_that_hangs_is_a_finding_and_its_group_is_left() {
        let hang = async |_: &Context| {
            std::thread::sleep(Duration::from_secs(60));
            Ok(Findings::default())
        };
        let (cases, _) = outcomes(true, vec![case("a/hangs", hang), case("a/next", passes), case("b/other", passes)]);
        assert_eq!(message(&cases[0]), "no end after 5 s");
        assert_eq!(message(&cases[1]), "not run");
        assert_eq!(cases[2].outcome, Outcome::Passed);
    }

    #[test]
    fn what_differs_is_told_with_its_share_of_the_tolerance() {
        let wrong = async |_: &Context| {
            let mut found = Findings::default();
            found.at_most("the difference", 2.0, 8.0);
            found.at_most("another difference", 3.0, 2.0);
            Ok(found)
        };
        let repeats = async |context: &Context| {
            let (mut found, mut run) = (Findings::default(), 0.0);
            let next = async || {
                run += 1.0;
                Ok(vec![vec![1.0, run]])
            };
            context.twice("x", &mut found, next).await?;
            Ok(found)
        };
        let (cases, reopened) = outcomes(true, vec![case("a/wrong", wrong), case("b/differs", repeats)]);
        assert_eq!(message(&cases[0]), "another difference: 3.000e0, allowed 2.000e0");
        assert_eq!((cases[0].worst_error, cases[0].share_of_tolerance), (Some(3.0), Some(1.5)));
        assert!(message(&cases[1]).contains("element 1 of part 0 is 1 in one run and 2 in the next"), "{cases:?}");
        assert!(reopened.is_empty(), "a wrong result is no reason for another device");
    }

    #[test]
    fn every_case_has_a_name_of_its_own_and_groups_are_not_torn() {
        for tier in Tier::ALL {
            let all = cases::cases(tier);
            let mut names: Vec<(String, Option<String>)> =
                all.iter().map(|c| (c.name.clone(), c.variant.clone())).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all.len());
            let mut groups: Vec<(&str, Option<&String>)> =
                all.iter().map(|c| (c.group(), c.variant.as_ref())).collect();
            groups.dedup();
            let runs = groups.len();
            groups.sort_unstable();
            groups.dedup();
            assert_eq!(runs, groups.len(), "{groups:?}");
        }
    }
}
