//! The shapes of kernels on one device, where they are not the table's: those that were measured to be the fastest, kept in a file
//! for each adapter, and one that a test or a measurement forces.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::AdapterReport;
#[cfg(feature = "bench")]
use crate::error::{Error, Result};
use crate::files;

/// Bytes of a file, at most.
const MOST_BYTES: u64 = 1 << 20;

/// A product that was measured, and what was the fastest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The form's name, see [`crate::kernels::shapes::Form`].
    pub form: String,
    /// Rows of C; of all experts together where they are grouped.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of a sum; of all experts together in a gradient.
    pub k: usize,
    /// Matrices, or experts.
    pub batch: usize,
    /// The shape, as [`crate::kernels::shapes::Shape`] is displayed.
    pub shape: String,
    /// Parts of the sums over K.
    pub splits: usize,
    /// Microseconds on the device, the fastest run.
    pub microseconds: f64,
}

/// The file, with what it holds for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    adapter: String,
    driver: String,
    sdmoe: String,
    product: Vec<Measured>,
}

/// A measured product, by numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) measured: Measured,
    /// The index of its shape.
    pub(crate) shape: usize,
}

/// The choices of shapes that belong to a device.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    /// One more than the index of the shape that all products run in, where one is forced, and the parts of their sums.
    forced: AtomicU64,
    measured: Vec<Measured>,
    resolved: OnceLock<Vec<Resolved>>,
}

impl Shapes {
    /// With what was measured on this adapter, if there is a file in `folder`.
    pub(super) fn new(folder: Option<&Path>, report: &AdapterReport) -> Self {
        let measured = folder.map_or_else(Vec::new, |folder| {
            let path = place(folder, report);
            match read(&path, report) {
                Ok(measured) => measured,
                Err(reason) => {
                    log::info!("{}: {reason}; shapes are the table's", path.display());
                    Vec::new()
                }
            }
        });
        Shapes { measured, ..Shapes::default() }
    }

    pub(super) fn force(&self, shape: Option<(u32, u32)>) {
        let packed = shape.map_or(0, |(index, splits)| u64::from(index + 1) << 32 | u64::from(splits));
        self.forced.store(packed, Ordering::Relaxed);
    }

    /// The index of the shape that is forced, and the parts of the sums.
    pub(crate) fn forced(&self) -> Option<(usize, usize)> {
        let packed = self.forced.load(Ordering::Relaxed);
        ((packed >> 32) as usize).checked_sub(1).map(|index| (index, packed as u32 as usize))
    }

    /// The products that were measured, those whose shape `index` knows.
    pub(crate) fn measured(&self, index: impl Fn(&str) -> Option<usize>) -> &[Resolved] {
        self.resolved.get_or_init(|| {
            let resolve = |measured: &Measured| {
                index(&measured.shape).map(|shape| Resolved { measured: measured.clone(), shape })
            };
            self.measured.iter().filter_map(resolve).collect()
        })
    }
}

/// The file of an adapter.
fn place(folder: &Path, report: &AdapterReport) -> PathBuf {
    let name: String =
        report.name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    folder.join(format!("tuned-{}-{name}.toml", report.backend.to_lowercase()))
}

fn read(path: &Path, report: &AdapterReport) -> std::result::Result<Vec<Measured>, String> {
    let text = match files::read_small(path, MOST_BYTES) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| e.to_string())?,
    };
    let file: File = toml::from_slice(&text).map_err(|e| e.message().to_owned())?;
    let own = (report.name.as_str(), report.driver.as_str(), env!("CARGO_PKG_VERSION"));
    if (file.adapter.as_str(), file.driver.as_str(), file.sdmoe.as_str()) != own {
        return Err("made with another adapter, driver or version".into());
    }
    Ok(file.product)
}

/// Keeps what was measured on an adapter in its file in `folder`, which is made where it is missing, and returns its path.
///
/// # Errors
/// [`Error::Io`].
#[cfg(feature = "bench")]
pub(crate) fn keep(folder: &Path, report: &AdapterReport, measured: Vec<Measured>) -> Result<PathBuf> {
    let path = place(folder, report);
    let file = File {
        adapter: report.name.clone(),
        driver: report.driver.clone(),
        sdmoe: env!("CARGO_PKG_VERSION").into(),
        product: measured,
    };
    let text = toml::to_string(&file).map_err(|e| Error::config("tuned", e.to_string()))?;
    files::replace(&path, text.as_bytes()).map_err(Error::io("writing", &path))?;
    Ok(path)
}
