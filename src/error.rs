//! The one error type: every failure names the operation, what was expected and what came.
//!
//! Nothing here prints or exits; the command-line program maps every error to exit code 2.

use std::path::{Path, PathBuf};

/// Advice on how to install the software driver where no GPU is found.
pub const INSTALL_HINT: &str = "on Debian or Ubuntu install Mesa's software driver: \
     apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1 (scripts/with-gpu does it)";

/// Any failure of the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine offers no adapter that can run compute shaders.
    #[error("no GPU adapter found: {0}")]
    NoAdapter(String),
    /// `--adapter` named something that does not exist.
    #[error("adapter `{wanted}` not found; available: {available}")]
    UnknownAdapter {
        /// The adapter that was asked for: a part of a name, or an index.
        wanted: String,
        /// The adapters that exist, as `index: name`.
        available: String,
    },
    /// The device failed or cannot do what was asked.
    #[error("GPU device: {0}")]
    Device(String),
    /// A limit of the device is too low for the kernels.
    #[error("GPU device: {adapter}: the kernels need {limit} of at least {least}, it has {has}")]
    Limit {
        /// The adapter's name.
        adapter: String,
        /// The limit, a field of [`wgpu::Limits`].
        limit: &'static str,
        /// The least that suffices.
        least: u64,
        /// The device's.
        has: u64,
    },
    /// wgpu refused a call: a kernel of one's own asks for more than the device gives, or it is a bug of this crate.
    #[error("GPU device: {message}")]
    Validation {
        /// The message of wgpu.
        message: String,
        /// The reason behind it, if wgpu gives one.
        source: Option<Cause>,
    },
    /// The device's memory does not suffice.
    #[error("GPU device: {message}")]
    OutOfMemory {
        /// The message of wgpu.
        message: String,
        /// The reason behind it, if wgpu gives one.
        source: Option<Cause>,
    },
    /// The device is gone: its driver restarted, it was unplugged, or the application destroyed it. Nothing runs on it
    /// any more.
    #[error("GPU device lost: {0}")]
    DeviceLost(String),
    /// An operation got operands whose shapes do not fit each other.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// The operation, e.g. `gemm`.
        op: &'static str,
        /// Its need.
        expected: String,
        /// The value that it was given.
        got: String,
    },
    /// A kernel's WGSL, its bindings or its parameters do not agree with the launch.
    #[error("kernel {kernel}: {message}")]
    Kernel {
        /// The kernel's name.
        kernel: String,
        /// The contradiction.
        message: String,
    },
    /// A setting is impossible or unknown.
    #[error("config: {field}: {message}")]
    Config {
        /// The setting, as written in `config.toml`, e.g. `model.top_k`.
        field: String,
        /// The expectation, and what came.
        message: String,
    },
    /// The training or evaluation text cannot be used.
    #[error("data: {0}")]
    Data(String),
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// The action that failed, e.g. `writing`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A checkpoint or run folder is damaged or belongs to something else.
    #[error("checkpoint {}: {message}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// The fault in it.
        message: String,
    },
    /// A number that must be finite is not.
    #[error(
        "step {step}: {what} is {value}; training stopped; the checkpoint written before it, if any, is good and kept"
    )]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// Which number.
        what: String,
        /// Its value: NaN or infinite.
        value: f32,
    },
    /// A computation that is defined for finite numbers alone met another.
    #[error("{op}: expected finite numbers, got {value}")]
    Undefined {
        /// The operation, e.g. `svd`.
        op: &'static str,
        /// The value that it met or made: NaN or infinite.
        value: f32,
    },
}

/// A reason that wgpu gives for a failure, in words, with the one behind it. An error can be kept and handed to another
/// thread on every platform; wgpu's own cannot in a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    message: String,
    source: Option<Box<Cause>>,
}

impl Cause {
    /// The reasons behind `error`; none where it gives none.
    pub(crate) fn behind(error: &dyn std::error::Error) -> Option<Self> {
        let source = error.source()?;
        Some(Self { message: source.to_string(), source: Self::behind(source).map(Box::new) })
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The sort of failure that an [`Error`] is; a program that goes on after one decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no adapter, or not the one that was asked for: [`Error::NoAdapter`], [`Error::UnknownAdapter`].
    NoDevice,
    /// [`Error::Device`], [`Error::Limit`].
    Device,
    /// [`Error::Validation`]: the device refused a call. The [`Gpu`](crate::gpu::Gpu) reports that from then on; a new one on the
    /// same device goes on.
    Validation,
    /// [`Error::DeviceLost`]: a new [`Gpu`](crate::gpu::Gpu) is needed.
    DeviceLost,
    /// [`Error::OutOfMemory`]: a smaller model or batch may fit, on a new [`Gpu`](crate::gpu::Gpu).
    OutOfMemory,
    /// [`Error::Shape`].
    Shape,
    /// [`Error::Kernel`].
    Kernel,
    /// [`Error::Config`].
    Config,
    /// The text, or what a file holds, cannot be used: [`Error::Data`], [`Error::Checkpoint`].
    Data,
    /// [`Error::Io`], which has the system's error as its source.
    Io,
    /// A number is NaN or infinite: [`Error::NotFinite`], [`Error::Undefined`].
    NotFinite,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns the sort of failure that it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoAdapter(_) | Error::UnknownAdapter { .. } => ErrorKind::NoDevice,
            Error::Device(_) | Error::Limit { .. } => ErrorKind::Device,
            Error::Validation { .. } => ErrorKind::Validation,
            Error::DeviceLost(_) => ErrorKind::DeviceLost,
            Error::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Error::Shape { .. } => ErrorKind::Shape,
            Error::Kernel { .. } => ErrorKind::Kernel,
            Error::Config { .. } => ErrorKind::Config,
            Error::Data(_) | Error::Checkpoint { .. } => ErrorKind::Data,
            Error::Io { .. } => ErrorKind::Io,
            Error::NotFinite { .. } | Error::Undefined { .. } => ErrorKind::NotFinite,
        }
    }

    /// A [`Error::Shape`].
    pub fn shape(op: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Error::Shape { op, expected: expected.into(), got: got.into() }
    }

    /// A [`Error::Config`].
    pub fn config(field: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { field: field.into(), message: message.into() }
    }

    /// A [`Error::Checkpoint`].
    pub fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.to_owned(), message: message.into() }
    }

    /// Checks that what `op` gave is finite.
    ///
    /// # Errors
    /// [`Error::Undefined`] with the first number that is not.
    pub(crate) fn unless_finite(op: &'static str, values: &[f32]) -> Result<()> {
        match values.iter().find(|x| !x.is_finite()) {
            Some(&value) => Err(Error::Undefined { op, value }),
            None => Ok(()),
        }
    }

    /// Turns an [`std::io::Error`] into an [`Error::Io`]: `.map_err(Error::io("reading", path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn an_error_tells_its_kind_and_its_source() {
        let io = Error::io("reading", Path::new("x"))(std::io::Error::other("broken"));
        assert_eq!((io.kind(), io.source().unwrap().to_string().as_str()), (ErrorKind::Io, "broken"));
        let shape = Error::shape("gemm", "2", "3");
        assert_eq!((shape.kind(), shape.source().is_none()), (ErrorKind::Shape, true));
    }
}
