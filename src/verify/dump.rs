//! The folder that a failure leaves, from which it runs again alone, here or elsewhere.
//!
//! | file | what |
//! |---|---|
//! | `case.json` | the case, its variant, the adapter, what was wrong, what the other families of kernels gave |
//! | `job.json`, `shader.wgsl` | of a probe or a shader of one's own: entry point, constants, sizes, workgroups; the source |
//! | `shader.spv`, `.metal`, `.hlsl` | what naga makes of it, or `.txt` with why it makes nothing |
//! | `in/`, `expected/`, `found/` | the content of its buffers, little-endian |
//! | `launches/` | of a case of kernels: the same for each launch, in order, with what it found on the device that failed |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::header::Header;
use super::report::{CaseReport, Outcome};
use super::shader::{self, Buffers, Evidence, Job, ShaderDevice, translations};
use super::{Options, one};
use crate::error::{Error, Result};
use crate::gpu::{BufferSlice, Captured, Gpu, GpuOptions, Tier, compose_half};

/// The case of a folder.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    name: String,
    variant: String,
    tier: String,
    seed: u64,
    message: String,
    adapter: String,
    driver: String,
    backend: String,
    sdmoe: String,
    /// The outcome of the same case with other kernels, by tier.
    other_tiers: BTreeMap<String, String>,
}

/// The outcome of running a failure again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Replayed {
    /// Whether it passes now.
    pub passed: bool,
    /// The outcome in a line.
    pub message: String,
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("making", path))
}

fn put(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).map_err(Error::io("writing", path))
}

fn json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::config("--dump", e.to_string()))?;
    put(path, text + "\n")
}

/// A name as a file's.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' };
    name.chars().map(plain).collect::<String>().trim_matches('-').to_owned()
}

/// Writes the folder of a failed case into `folder`, and returns its path.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write(
    folder: &Path,
    header: &Header,
    case: &CaseReport,
    tier: Tier,
    options: &Options,
    evidence: Option<&Evidence>,
) -> Result<PathBuf> {
    let path = folder.join(file_name(&format!("{}-{}-{}", header.adapter.name, case.variant, case.name)));
    make(&path)?;
    let message = match &case.outcome {
        Outcome::Failed { message } => message.clone(),
        other => other.name().to_owned(),
    };
    let about = About {
        name: case.name.clone(),
        variant: case.variant.clone(),
        tier: tier.name().into(),
        seed: options.seed,
        message,
        adapter: header.adapter.name.clone(),
        driver: header.adapter.driver.clone(),
        backend: header.adapter.backend.clone(),
        sdmoe: env!("CARGO_PKG_VERSION").into(),
        other_tiers: if evidence.is_some() { BTreeMap::new() } else { elsewhere(header, case, tier, options) },
    };
    json(&path.join("case.json"), &about)?;
    match evidence {
        Some(evidence) => write_job(&path, evidence)?,
        // A case that fails by an error of the device has no launches that could be read.
        None => {
            if let Ok((gpu, launches)) = one::launches(&case.name, &case.variant, tier, options) {
                for (i, launch) in launches.iter().take(MOST_LAUNCHES).enumerate() {
                    let folder = path.join("launches").join(format!("{i:03}-{}", file_name(launch.kernel.name)));
                    if let Ok(evidence) = launch_evidence(&gpu, launch) {
                        write_shader(&folder, &evidence)?;
                    }
                }
            }
        }
    }
    Ok(path)
}

/// Launches that a folder has at most; a case has a few, a training step hundreds.
const MOST_LAUNCHES: usize = 40;

/// A kernel's launch as a shader with all that it ran on.
fn launch_evidence(gpu: &Gpu, launch: &Captured) -> Result<Evidence> {
    let content = |slice: &BufferSlice| -> Result<Vec<u8>> {
        let mut bytes = pollster::block_on(gpu.read(slice)?)?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(bytes)
    };
    let kernel = launch.kernel;
    let mut job = Job::new(kernel.name, compose_half(kernel, &launch.half)?, kernel.entry);
    let constants = kernel.constants.iter().chain(&launch.constants);
    job.constants = constants.map(|(name, value)| ((*name).to_owned(), *value)).collect();
    (job.groups, job.zero_workgroup_memory) = (launch.groups, false);
    let mut found = Buffers::new();
    for (name, before, after) in &launch.buffers {
        job.inputs.insert(name.clone(), content(before)?);
        if let Some(after) = after {
            found.insert(name.clone(), content(after)?);
        }
    }
    if let Some(params) = &launch.params {
        let mut params = params.clone();
        params.resize(params.len().next_multiple_of(16), 0);
        job.inputs.insert("params".into(), params);
    }
    Ok(Evidence { job, found })
}

/// Runs the same case with the other families of kernels; returns their outcomes by tier.
fn elsewhere(header: &Header, case: &CaseReport, tier: Tier, options: &Options) -> BTreeMap<String, String> {
    let others = Tier::ALL.into_iter().filter(|other| *other != tier && header.adapter.runs(*other));
    let options = Options { dump: None, ..options.clone() };
    let mut found = BTreeMap::new();
    for other in others {
        let variant = case.variant.replacen(tier.name(), other.name(), 1);
        let text = match one::again(&case.name, &variant, other, &options) {
            Ok(Some(report)) => super::render::why(&report).unwrap_or_else(|| report.outcome.name().into()),
            Ok(None) => "has no such case".into(),
            Err(error) => error.to_string(),
        };
        found.insert(other.name().to_owned(), text);
    }
    found
}

/// Writes a shader with all that it ran on.
///
/// # Errors
/// [`Error::Io`].
fn write_job(path: &Path, Evidence { job, found }: &Evidence) -> Result<()> {
    json(&path.join("job.json"), job)?;
    put(&path.join("shader.wgsl"), &job.wgsl)?;
    for (name, content) in translations(job) {
        match content {
            Ok(content) => put(&path.join(name), content)?,
            Err(why) => put(&path.join(format!("{name}.txt")), why + "\n")?,
        }
    }
    for (part, buffers) in [("in", &job.inputs), ("expected", &job.expected), ("found", found)] {
        make(&path.join(part))?;
        for (name, content) in buffers {
            put(&path.join(part).join(format!("{name}.bin")), content)?;
        }
    }
    Ok(())
}

/// Writes the folder of a shader that did something wrong; `path` is the folder itself.
///
/// # Errors
/// [`Error::Io`].
pub fn write_shader(path: &Path, evidence: &Evidence) -> Result<()> {
    make(path)?;
    write_job(path, evidence)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    crate::files::read(path)
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read(path)?).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
}

/// The buffers in a folder.
fn buffers(folder: &Path) -> Result<Buffers> {
    let mut found = Buffers::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(found) };
    for entry in entries {
        let path = entry.map_err(Error::io("reading", folder))?.path();
        if let (Some("bin"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_stem()) {
            found.insert(name.to_string_lossy().into_owned(), read(&path)?);
        }
    }
    Ok(found)
}

/// Runs the failure again that a folder of [`Options::dump`] describes, on the adapter that `options` names.
///
/// # Errors
/// [`Error::Io`], [`Error::Data`] when the folder is not such a one; [`Error::NoAdapter`], [`Error::UnknownAdapter`],
/// [`Error::Device`]; [`Error::Kernel`] when a shader is refused.
pub fn replay(folder: &Path, options: &GpuOptions) -> Result<Replayed> {
    let about = folder.join("case.json");
    let case: Option<About> = if about.exists() { Some(parse(&about)?) } else { None };
    if folder.join("job.json").exists() {
        let mut job: Job = parse(&folder.join("job.json"))?;
        job.wgsl = String::from_utf8(read(&folder.join("shader.wgsl"))?)
            .map_err(|_| Error::Data(format!("{}: expected text", folder.join("shader.wgsl").display())))?;
        (job.inputs, job.expected) = (buffers(&folder.join("in"))?, buffers(&folder.join("expected"))?);
        // A probe whose results are judged by more than what is expected runs as the case that it is.
        if case.is_none() || !job.expected.is_empty() {
            let (device, header) = ShaderDevice::open(&options.adapter)?;
            let found = shader::verify(&device, &job, Duration::from_secs(120))?;
            let passed = found.wrong.is_empty();
            let what = if passed { "passes".to_owned() } else { format!("FAILED: {}", found.wrong.join("; ")) };
            return Ok(Replayed { passed, message: format!("{} on {}: {what}", job.name, header.title()) });
        }
    }
    let Some(case) = case else {
        let expected = "expected a folder that --dump made, found neither case.json nor job.json in it";
        return Err(Error::Data(format!("{}: {expected}", folder.display())));
    };
    let tier = Tier::named(&case.tier)
        .ok_or_else(|| Error::Data(format!("{}: expected the name of a tier, got {}", about.display(), case.tier)))?;
    let run = Options { gpu: options.clone(), seed: case.seed, ..Options::default() };
    let Some(report) = one::again(&case.name, &case.variant, tier, &run)? else {
        return Err(Error::Data(format!("{}: this version has no case `{}`", about.display(), case.name)));
    };
    let passed = report.outcome == Outcome::Passed;
    let what =
        super::render::why(&report).map_or("passes".to_owned(), |why| format!("{}: {why}", report.outcome.name()));
    Ok(Replayed { passed, message: format!("{} ({}): {what}", report.name, report.variant) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_of_kernels_leaves_its_launches_each_of_which_runs_again() {
        let found = pollster::block_on(crate::gpu::adapters()).unwrap();
        let adapter = &found[crate::gpu::AdapterChoice::Auto.among(&found).unwrap()];
        let header = pollster::block_on(super::super::header::header(adapter)).unwrap();
        let place = tempfile::tempdir().unwrap();
        let case = CaseReport {
            name: "op/swiglu/7x33".into(),
            variant: adapter.tier.name().into(),
            outcome: Outcome::Failed { message: "as if".into() },
            worst_error: None,
            share_of_tolerance: None,
            seconds: 0.0,
            reference: None,
            notes: Vec::new(),
        };
        let path = write(place.path(), &header, &case, adapter.tier, &Options::default(), None).unwrap();
        let about: About = parse(&path.join("case.json")).unwrap();
        let others = Tier::ALL.into_iter().filter(|tier| *tier != adapter.tier && adapter.runs(*tier)).count();
        assert_eq!(about.other_tiers.len(), others);
        assert!(about.other_tiers.values().all(|given| given == "passed"), "{about:?}");
        let launches: Vec<PathBuf> =
            fs::read_dir(path.join("launches")).unwrap().map(|entry| entry.unwrap().path()).collect();
        // Forward and backward, twice.
        assert_eq!(launches.len(), 4, "{launches:?}");
        let options = GpuOptions::default();
        for launch in &launches {
            assert!(launch.join("in/params.bin").exists() && launch.join("shader.spv").exists(), "{launch:?}");
            let replayed = replay(launch, &options).unwrap();
            assert!(replayed.passed, "{}", replayed.message);
        }
        assert!(replay(&path, &options).unwrap().passed);
    }

    #[test]
    fn a_cases_name_becomes_one_of_a_folder() {
        assert_eq!(file_name("probe/loops/a, b: 7"), "probe-loops-a--b--7");
        assert_eq!(file_name("/../x"), "..-x");
    }
}
