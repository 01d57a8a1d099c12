//! Files of a report: all staged first, then renamed to their places, so that a failure leaves what was there.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file's path inside the report's folder, and its content.
pub type Output = (PathBuf, Vec<u8>);

/// Where files wait until all are written.
const STAGE: &str = ".report.tmp";
/// How a figure of ours begins: others' files in the same folder are left alone.
const OURS: &str = "data-by=\"sdmoe\"";

/// Writes `outputs` into `dir`, the last one last: where it is, all are. Older figures of ours without a successor go.
///
/// # Errors
/// [`Error::Io`]; then `dir` is as before, and not there if it was not.
pub fn write_all(dir: &Path, outputs: &[Output]) -> Result<()> {
    let created = !dir.exists();
    let stage = dir.join(STAGE);
    let result = stage_all(dir, &stage, outputs).and_then(|()| place_all(dir, &stage, outputs));
    // The failure that matters is the first; what cannot be removed now is removed by the next report.
    let _ = fs::remove_dir_all(&stage);
    if result.is_err() && created {
        let _ = fs::remove_dir_all(dir);
    }
    result?;
    remove_older_figures(dir, outputs)
}

fn stage_all(dir: &Path, stage: &Path, outputs: &[Output]) -> Result<()> {
    if stage.exists() {
        fs::remove_dir_all(stage).map_err(Error::io("removing", stage))?;
    }
    fs::create_dir_all(stage).map_err(Error::io("creating", stage))?;
    for (i, (path, content)) in outputs.iter().enumerate() {
        let target = dir.join(path);
        if target.is_dir() {
            return Err(Error::io("writing", &target)(std::io::ErrorKind::IsADirectory.into()));
        }
        let temporary = stage.join(i.to_string());
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(Error::io("writing", &target))?;
    }
    outputs
        .iter()
        .filter_map(|(path, _)| dir.join(path).parent().map(Path::to_owned))
        .try_for_each(|folder| fs::create_dir_all(&folder).map_err(Error::io("creating", &folder)))
}

fn place_all(dir: &Path, stage: &Path, outputs: &[Output]) -> Result<()> {
    for (i, (path, _)) in outputs.iter().enumerate() {
        let target = dir.join(path);
        fs::rename(stage.join(i.to_string()), &target).map_err(Error::io("writing", &target))?;
    }
    Ok(())
}

fn remove_older_figures(dir: &Path, outputs: &[Output]) -> Result<()> {
    let folder = dir.join(super::FIGURES);
    if !folder.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(&folder).map_err(Error::io("reading", &folder))?;
    for entry in entries {
        let path = entry.map_err(Error::io("reading", &folder))?.path();
        let known = outputs.iter().any(|(output, _)| dir.join(output) == path);
        let ours = || fs::read_to_string(&path).is_ok_and(|text| text.lines().next().is_some_and(|l| l.contains(OURS)));
        if !known && path.extension().is_some_and(|e| e == "svg") && ours() {
            fs::remove_file(&path).map_err(Error::io("removing", &path))?;
        }
    }
    Ok(())
}
