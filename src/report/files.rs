//! Files of a report: all staged first, then renamed to their final names, so that a failure leaves what was there.
//! Only what reports of this program have written is ever replaced.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file's path inside the report's folder, and its content.
pub type Output = (PathBuf, Vec<u8>);

/// Where files wait until all are written.
const STAGE: &str = ".report.tmp";
/// The text that files of reports have at their start, by the ending of their names: figures, pages and records.
const OURS: [(&str, &str); 3] = [
    ("svg", "data-by=\"sdmoe\""),
    ("html", "name=\"generator\" content=\"sdmoe\""),
    ("json", "{\"target\":{\"name\":"),
];
/// Records and the experts to keep, of one analysis and of two.
const RECORDS: [&str; 6] =
    [super::RECORD, super::KEEP, super::RECORDS[0], super::RECORDS[1], super::KEEPS[0], super::KEEPS[1]];
/// Bytes of a file in which that stands.
const START: u64 = 1024;

/// Whether a report of this program has written the file.
fn is_ours(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str());
    let Some((_, mark)) = OURS.into_iter().find(|(of, _)| Some(*of) == ending) else { return false };
    let mut start = Vec::new();
    // Opening a pipe would wait.
    let mut read = || path.is_file() && File::open(path).is_ok_and(|f| f.take(START).read_to_end(&mut start).is_ok());
    read() && String::from_utf8_lossy(&start).contains(mark)
}

/// Whether `stage` is a folder of nothing but files that wait to be renamed into a report.
fn is_stage(stage: &Path) -> bool {
    let waits = |e: std::io::Result<fs::DirEntry>| {
        e.is_ok_and(|e| e.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit())))
    };
    !stage.is_symlink() && fs::read_dir(stage).is_ok_and(|mut entries| entries.all(waits))
}

/// Refuses a folder that is not free for a report: one that holds files, but no report of this program, or that has
/// another file where one of the report goes.
///
/// # Errors
/// [`Error::Checkpoint`] names the file; [`Error::Io`].
pub fn check(dir: &Path) -> Result<()> {
    let taken = |name: &str| {
        let message = format!("holds `{name}`, which no report of this program has written; choose another --out");
        Err(Error::checkpoint(dir, message))
    };
    if !dir.exists() {
        return Ok(());
    }
    let (mut ours, mut other) = (false, None);
    for entry in fs::read_dir(dir).map_err(Error::io("reading", dir))? {
        let path = entry.map_err(Error::io("reading", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == super::PAGE || RECORDS.contains(&&*name) {
            if !is_ours(&path) {
                return taken(&name);
            }
            ours = true;
        } else if name == STAGE {
            if !is_stage(&path) {
                return taken(&name);
            }
        } else if name == super::FIGURES && path.is_dir() {
            // What an interrupted report has left has figures first.
            for figure in fs::read_dir(&path).map_err(Error::io("reading", &path))? {
                let figure = figure.map_err(Error::io("reading", &path))?.path();
                if is_ours(&figure) {
                    ours = true;
                } else {
                    other = Some(name.clone());
                }
            }
        } else if is_ours(&path.join(super::PAGE)) {
            // That of another stack of layers.
            ours = true;
        } else {
            other = Some(name);
        }
    }
    match other {
        Some(name) if !ours => taken(&name),
        _ => Ok(()),
    }
}

/// Writes `outputs` into `dir`, the last one last: where it is, all are. Older files of ours without a successor go.
///
/// # Errors
/// As [`check`], also for each figure; [`Error::Io`]. Then `dir` is as before, and not there if it was not.
pub fn write_all(dir: &Path, outputs: &[Output]) -> Result<()> {
    check(dir)?;
    let in_the_way = |path: &&PathBuf| dir.join(path).symlink_metadata().is_ok() && !is_ours(&dir.join(path));
    if let Some(path) = outputs.iter().map(|(path, _)| path).find(in_the_way) {
        let message = "is in the way of the report, and no report of this program has written it; choose another --out";
        return Err(Error::checkpoint(&dir.join(path), message));
    }
    let created = !dir.exists();
    let stage = dir.join(STAGE);
    let result = stage_all(dir, &stage, outputs).and_then(|()| place_all(dir, &stage, outputs));
    // The failure that matters is the first; what cannot be removed now is removed by the next report.
    let _ = fs::remove_dir_all(&stage);
    if result.is_err() && created {
        let _ = fs::remove_dir_all(dir);
    }
    result?;
    remove_older(dir, outputs)
}

fn stage_all(dir: &Path, stage: &Path, outputs: &[Output]) -> Result<()> {
    if stage.exists() {
        fs::remove_dir_all(stage).map_err(Error::io("removing", stage))?;
    }
    fs::create_dir_all(stage).map_err(Error::io("creating", stage))?;
    for (i, (path, content)) in outputs.iter().enumerate() {
        let target = dir.join(path);
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

fn remove_older(dir: &Path, outputs: &[Output]) -> Result<()> {
    for path in RECORDS.map(|name| dir.join(name)) {
        let known = outputs.iter().any(|(output, _)| dir.join(output) == path);
        if !known && is_ours(&path) {
            fs::remove_file(&path).map_err(Error::io("removing", &path))?;
        }
    }
    let folder = dir.join(super::FIGURES);
    if !folder.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(&folder).map_err(Error::io("reading", &folder))?;
    for entry in entries {
        let path = entry.map_err(Error::io("reading", &folder))?.path();
        let known = outputs.iter().any(|(output, _)| dir.join(output) == path);
        if !known && path.extension().is_some_and(|e| e == "svg") && is_ours(&path) {
            fs::remove_file(&path).map_err(Error::io("removing", &path))?;
        }
    }
    Ok(())
}
