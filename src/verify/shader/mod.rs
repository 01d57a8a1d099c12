//! A harness for one compute shader: bindings by reflection, outputs poisoned and guarded, runs repeated, results compared.
//!
//! [`Job`] says what to run; [`verify`] runs it and tells what is wrong:
//!
//! - Every buffer lies between two guards, in which nothing may change.
//! - What is given no content is filled with a NaN that no arithmetic gives, another one in every second run. An element that has it
//!   afterwards was never written, one that differs between runs depends on chance or on what was there.
//! - What is expected is compared element by element, the padding of structs and of `vec3` left out.

mod arrival;
mod compare;
mod device;
mod execute;
mod layout;
mod parse;
mod translate;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use device::ShaderDevice;
pub use parse::{BufferKind, Prepared, Variable};
pub(super) use translate::translations;

use crate::error::{Error, Result};
use crate::gpu::Instant;
use execute::{Poison, execute};

/// A compute shader with all that it runs on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// The name in messages: a file's.
    pub name: String,
    /// The entry point.
    pub entry: String,
    /// Workgroups in each dimension.
    pub groups: [u32; 3],
    /// Values of `override` constants.
    pub constants: BTreeMap<String, f64>,
    /// Bytes of buffers that are given no content and whose type does not tell.
    pub sizes: BTreeMap<String, u64>,
    /// A buffer that is bound with a dynamic offset, and the bytes that are bound at a time: the shader runs once for each part.
    pub dynamic: Option<(String, u64)>,
    /// Whether workgroup memory is zero at first, as WGSL has it; wgpu can leave that out.
    pub zero_workgroup_memory: bool,
    /// How often it runs.
    pub runs: u32,
    /// Whether the runs must give the same bits.
    pub repeatable: bool,
    /// By how much floats may differ from what is expected, of the largest expected one of the buffer; without it not by a bit.
    pub tolerance: Option<f64>,
    /// The WGSL.
    #[serde(skip)]
    pub wgsl: String,
    /// The initial content of buffers.
    #[serde(skip)]
    pub inputs: BTreeMap<String, Vec<u8>>,
    /// The content that buffers should have in the end.
    #[serde(skip)]
    pub expected: BTreeMap<String, Vec<u8>>,
}

impl Job {
    /// One workgroup of an entry point, run twice.
    pub fn new(name: impl Into<String>, wgsl: impl Into<String>, entry: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            entry: entry.into(),
            groups: [1; 3],
            constants: BTreeMap::new(),
            sizes: BTreeMap::new(),
            dynamic: None,
            zero_workgroup_memory: true,
            runs: 2,
            repeatable: true,
            tolerance: None,
            wgsl: wgsl.into(),
            inputs: BTreeMap::new(),
            expected: BTreeMap::new(),
        }
    }

    fn fail(&self, message: impl Into<String>) -> Error {
        Error::Kernel { kernel: self.name.clone(), message: message.into() }
    }
}

/// The content of buffers, by the variables' names.
pub type Buffers = BTreeMap<String, Vec<u8>>;

/// The results of a shader's runs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verification {
    /// The buffers that it can write, after the first run.
    pub found: Buffers,
    /// Descriptions of what is wrong, the first thing of each buffer.
    pub wrong: Vec<String>,
    /// The largest difference from what was expected, of what is allowed.
    pub share_of_tolerance: Option<f64>,
    /// The largest difference.
    pub worst_error: Option<f64>,
    /// Seconds of the fastest run, from its submission until the host knew of its end.
    pub seconds: f64,
}

/// A shader that failed, with all that reproduces it.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The shader with all that it ran on.
    pub job: Job,
    /// The content of its buffers afterwards.
    pub found: Buffers,
}

/// Runs a shader and compares what it gives.
///
/// # Errors
/// [`Error::Kernel`] when the WGSL is not valid, has no such entry point, needs what is not given, or is refused by the device;
/// [`Error::Device`] when it does not end within `timeout`; [`Error::DeviceLost`]; [`Error::OutOfMemory`].
pub fn verify(device: &ShaderDevice, job: &Job, timeout: Duration) -> Result<Verification> {
    pollster::block_on(verification(device, job, Some(timeout)))
}

/// As [`verify`], without blocking where the event loop moves the device along, and for as long as it takes without a `timeout`.
pub(super) async fn verification(device: &ShaderDevice, job: &Job, timeout: Option<Duration>) -> Result<Verification> {
    let prepared = Prepared::new(job)?;
    let mut all = Verification { seconds: f64::INFINITY, ..Verification::default() };
    for run in 0..job.runs.max(1) {
        let poison = if run % 2 == 0 { Poison::FIRST } else { Poison::SECOND };
        let started = Instant::now();
        let given = execute(device, job, &prepared, poison, timeout).await?;
        all.seconds = all.seconds.min(started.elapsed().as_secs_f64());
        all.wrong.extend(given.guards);
        if run == 0 {
            all.found = given.buffers;
        } else {
            compare::runs(job, &prepared, [&all.found, &given.buffers], run, &mut all.wrong);
        }
    }
    let found = std::mem::take(&mut all.found);
    compare::expected(job, &prepared, &found, &mut all);
    all.found = found;
    all.wrong.dedup();
    Ok(all)
}
