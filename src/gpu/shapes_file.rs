//! The file of each adapter with the shapes of products that were measured to be the fastest there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AdapterReport, Measured};
#[cfg(feature = "bench")]
use crate::error::{Error, Result};
use crate::files;

/// Bytes of a file, at most.
const MOST_BYTES: u64 = 1 << 20;

/// The file, with what it holds for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    adapter: String,
    driver: String,
    sdmoe: String,
    #[serde(default)]
    product: Vec<Measured>,
}

/// The measurements of this adapter, if there is a file in `folder` that holds for it.
pub(super) fn measured(folder: &Path, report: &AdapterReport) -> Option<Vec<Measured>> {
    let path = place(folder, report);
    read(&path, report).unwrap_or_else(|reason| {
        log::info!("{}: {reason}; shapes are the table's", path.display());
        None
    })
}

/// The file of an adapter.
fn place(folder: &Path, report: &AdapterReport) -> PathBuf {
    let name: String =
        report.name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    folder.join(format!("tuned-{}-{name}.toml", report.backend.to_lowercase()))
}

fn read(path: &Path, report: &AdapterReport) -> std::result::Result<Option<Vec<Measured>>, String> {
    let text = match files::read_small(path, MOST_BYTES) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|e| e.to_string())?,
    };
    let file: File = toml::from_slice(&text).map_err(|e| e.message().to_owned())?;
    let own = (report.name.as_str(), report.driver.as_str(), env!("CARGO_PKG_VERSION"));
    if (file.adapter.as_str(), file.driver.as_str(), file.sdmoe.as_str()) != own {
        return Err("made with another adapter, driver or version".into());
    }
    Ok(Some(file.product))
}

/// Keeps what was measured on an adapter in its file in `folder`, which is made where it is missing, and returns its path. Products on
/// matrix units stay in it where none were measured now.
///
/// # Errors
/// [`Error::Io`].
#[cfg(feature = "bench")]
pub(crate) fn keep(folder: &Path, report: &AdapterReport, mut measured: Vec<Measured>) -> Result<PathBuf> {
    let path = place(folder, report);
    if !measured.iter().any(|one| one.f16) {
        let before = read(&path, report).ok().flatten();
        measured.extend(before.into_iter().flatten().filter(|one| one.f16));
    }
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
