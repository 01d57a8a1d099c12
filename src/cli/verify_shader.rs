//! `sdmoe verify --wgsl`: anybody's compute shader in the harness of the probes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::files;
use crate::gpu::AdapterChoice;
use crate::verify::Host;
use crate::verify::shader::{BufferKind, Evidence, Job, Prepared, ShaderDevice, Verification, verify};
use crate::verify::write_shader;

/// Flags for a shader of one's own.
#[derive(Debug, clap::Args)]
pub(super) struct ShaderArgs {
    /// Run this compute shader alone, outputs poisoned and guarded, and compare what it gives
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filter", "replay", "all"], help_heading = "A shader of one's own")]
    pub(super) wgsl: Option<PathBuf>,
    /// Its entry point; left out where there is one alone
    #[arg(long, value_name = "NAME", requires = "wgsl", help_heading = "A shader of one's own")]
    entry: Option<String>,
    /// The initial content of a buffer, little-endian, by the variable's name
    #[arg(long = "in", value_name = "NAME=FILE", requires = "wgsl", value_parser = pair, help_heading = "A shader of one's own")]
    inputs: Vec<(String, String)>,
    /// The bytes of a buffer that is given no content: it is poisoned, and the shader must write all of it
    #[arg(long, value_name = "NAME=BYTES", requires = "wgsl", value_parser = pair, help_heading = "A shader of one's own")]
    size: Vec<(String, String)>,
    /// The bytes of a buffer that is zero at first
    #[arg(long, value_name = "NAME=BYTES", requires = "wgsl", value_parser = pair, help_heading = "A shader of one's own")]
    zero: Vec<(String, String)>,
    /// The value of an override constant
    #[arg(long, value_name = "NAME=VALUE", requires = "wgsl", value_parser = pair, help_heading = "A shader of one's own")]
    constant: Vec<(String, String)>,
    /// Workgroups in each dimension
    #[arg(long, value_name = "X,Y,Z", requires = "wgsl", value_delimiter = ',', num_args = 1..=3, default_value = "1", help_heading = "A shader of one's own")]
    groups: Vec<u32>,
    /// The content that a buffer should have in the end
    #[arg(long, value_name = "NAME=FILE", requires = "wgsl", value_parser = pair, help_heading = "A shader of one's own")]
    expect: Vec<(String, String)>,
    /// By how much floats may differ from that, of the buffer's largest expected one; left out: not by a bit
    #[arg(long, value_name = "T", requires = "expect", help_heading = "A shader of one's own")]
    tolerance: Option<f64>,
    /// Runs, which must all give the same bits
    #[arg(long, value_name = "N", requires = "wgsl", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..1000), help_heading = "A shader of one's own")]
    runs: u32,
    /// Where what a buffer holds in the end is written
    #[arg(long = "out", value_name = "NAME=FILE", requires = "wgsl", value_parser = pair, help_heading = "A shader of one's own")]
    outputs: Vec<(String, String)>,
}

/// A name and what it is given.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("expected NAME=VALUE, got {text}")),
    }
}

fn number<T: std::str::FromStr>(flag: &'static str, (name, value): &(String, String)) -> Result<T> {
    value.parse().map_err(|_| Error::config(flag, format!("`{name}`: expected a number, got {value}")))
}

/// Files by the names of variables.
fn contents(pairs: &[(String, String)]) -> Result<BTreeMap<String, Vec<u8>>> {
    pairs.iter().map(|(name, path)| Ok((name.clone(), files::read(Path::new(path))?))).collect()
}

/// The one entry point of a shader.
fn only_entry(path: &Path, wgsl: &str) -> Result<String> {
    // Invalid WGSL is told by who parses it with an entry point.
    let module = naga::front::wgsl::parse_str(wgsl).unwrap_or_default();
    let names: Vec<&str> = module.entry_points.iter().map(|e| e.name.as_str()).collect();
    match names[..] {
        [name] => Ok(name.to_owned()),
        [] => Ok("main".into()),
        _ => {
            let message = format!("{} has several: expected one of {}", path.display(), names.join(", "));
            Err(Error::config("--entry", message))
        }
    }
}

impl ShaderArgs {
    /// The shader at `path` with all that it runs on.
    fn job(&self, path: &Path) -> Result<Job> {
        let wgsl = String::from_utf8(files::read(path)?)
            .map_err(|_| Error::Data(format!("{}: expected WGSL, got bytes that are no text", path.display())))?;
        let entry = self.entry.clone().map_or_else(|| only_entry(path, &wgsl), Ok)?;
        let mut job = Job::new(super::shown(path), wgsl, entry);
        job.inputs = contents(&self.inputs)?;
        job.expected = contents(&self.expect)?;
        for size in &self.size {
            job.sizes.insert(size.0.clone(), number("--size", size)?);
        }
        for zero in &self.zero {
            let bytes: usize = number("--zero", zero)?;
            if bytes > 1 << 31 {
                return Err(Error::config(
                    "--zero",
                    format!("`{}`: expected at most 2 GiB, got {bytes} bytes", zero.0),
                ));
            }
            job.inputs.insert(zero.0.clone(), vec![0; bytes]);
        }
        for constant in &self.constant {
            job.constants.insert(constant.0.clone(), number("--constant", constant)?);
        }
        self.groups.iter().zip(&mut job.groups).for_each(|(given, groups)| *groups = *given);
        if let Some(tolerance) = self.tolerance
            && !(0.0..=1e30).contains(&tolerance)
        {
            return Err(Error::config("--tolerance", format!("expected a number of at least 0, got {tolerance}")));
        }
        (job.tolerance, job.runs) = (self.tolerance, self.runs);
        Ok(job)
    }

    /// Runs it.
    pub(super) fn run(
        &self,
        path: &Path,
        adapter: &AdapterChoice,
        timeout: Duration,
        dump: Option<&Path>,
    ) -> Result<ExitCode> {
        let job = self.job(path)?;
        let prepared = Prepared::new(&job)?;
        let written = |name: &String| prepared.variables.iter().any(|v| v.name == *name && v.kind == BufferKind::Write);
        if let Some((name, _)) = self.outputs.iter().find(|(name, _)| !written(name)) {
            return Err(Error::config("--out", format!("`{}` writes no `{name}`", job.entry)));
        }
        let (device, header) = ShaderDevice::open(adapter)?;
        let host = Host::new();
        let wanted = ["adapter", "backend", "driver", "system", "versions", "environment"];
        let lines = header.lines(&host).into_iter().filter(|(name, _)| wanted.contains(name));
        super::print(&lines.map(|(name, value)| format!("{name:<12} {value}\n")).collect::<String>())?;
        let [x, y, z] = job.groups;
        super::print(&format!("shader       {}, entry `{}`, {x} x {y} x {z} workgroups\n", job.name, job.entry))?;
        for v in &prepared.variables {
            let held = match (v.kind, job.inputs.contains_key(&v.name)) {
                (BufferKind::Uniform, _) => "uniform",
                (BufferKind::Read, _) => "read",
                (BufferKind::Write, true) => "read and written",
                (BufferKind::Write, false) => "written, poisoned before",
            };
            let expected = if job.expected.contains_key(&v.name) { ", compared" } else { "" };
            super::print(&format!("buffer       {}: {} bytes, {held}{expected}\n", v.name, v.size))?;
        }
        // Lost or without an end is a finding, not a mistake of the caller.
        let found = match verify(&device, &job, timeout) {
            Err(error @ (Error::DeviceLost(_) | Error::Device(_) | Error::Validation { .. })) => {
                let mut found = Verification::default();
                found.wrong.push(error.to_string());
                found
            }
            found => found?,
        };
        for (name, file) in &self.outputs {
            let content = found.found.get(name).map_or(&[][..], Vec::as_slice);
            crate::checkpoint::write_file_atomically(Path::new(file), content)?;
        }
        self.tell(job, found, dump)
    }

    fn tell(&self, job: Job, found: Verification, dump: Option<&Path>) -> Result<ExitCode> {
        for wrong in &found.wrong {
            super::print(&format!("FAILED       {wrong}\n"))?;
        }
        if found.wrong.is_empty() {
            let share = found.share_of_tolerance.map_or(String::new(), |s| format!(", {s:.3} of the tolerance"));
            let compared = if job.expected.is_empty() { "nothing compared" } else { "as expected" };
            let ms = 1e3 * found.seconds;
            super::print(&format!("passed       {compared}{share}; {} runs, the fastest {ms:.2} ms\n", job.runs))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(folder) = dump {
            write_shader(folder, &Evidence { job, found: found.found })?;
            super::print(&format!("again        sdmoe verify --replay {}\n", super::shown(folder)))?;
        }
        Ok(ExitCode::FAILURE)
    }
}
