//! Replacing a checkpoint folder so that a reader, or a crash at any point, finds a complete old or new one.
//!
//! The protocol, for a checkpoint named `checkpoint`:
//!
//! 1. Everything is written to `checkpoint.tmp`, then each file and the folder are flushed to the disk.
//! 2. `checkpoint` is renamed to `checkpoint.old`, `checkpoint.tmp` to `checkpoint`, and the parent is flushed.
//! 3. `checkpoint.old` is removed.
//!
//! So the names `checkpoint` and `checkpoint.old` only ever belong to complete folders, and one of them always exists
//! once the first checkpoint was written. Between the two renames only `checkpoint.old` does: [`locate`] takes it, and the
//! next write first renames it back. A `checkpoint.tmp` is never read; the next write removes it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// `path` with `suffix` added to its last component.
fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what is at `path`, a link itself and not what it leads to.
fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => Err(e),
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(Error::io("removing", path))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("renaming to", to))
}

/// Flushes a folder's entries; Windows cannot open folders and needs no such flush.
fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("flushing", folder))?;
    }
    Ok(())
}

fn sync_files(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("reading", folder))? {
        let path = entry.map_err(Error::io("reading", folder))?.path();
        if path.is_dir() {
            sync_files(&path)?;
            continue;
        }
        // Windows flushes only what is open for writing.
        let open = fs::OpenOptions::new().write(true).open(&path);
        open.and_then(|f| f.sync_all()).map_err(Error::io("flushing", &path))?;
    }
    sync_folder(folder)
}

/// Replaces the folder `dir` by what `files` writes into the folder that it is handed (plain files, no folders).
///
/// When `files` fails, `dir` is as before and the unfinished folder is gone. The folder that `dir` is in must exist: one that
/// was removed or renamed meanwhile is not made anew.
///
/// # Errors
/// The errors of `files`, or [`Error::Io`].
pub fn write_atomically(dir: &Path, files: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (temporary, old) = (sibling(dir, ".tmp"), sibling(dir, ".old"));
    if !dir.exists() && old.exists() {
        rename(&old, dir)?;
    }
    remove(&old)?;
    remove(&temporary)?;
    fs::create_dir(&temporary).map_err(Error::io("creating", &temporary))?;
    if let Err(e) = files(&temporary).and_then(|()| sync_files(&temporary)) {
        // The failure that matters is `e`; what cannot be removed now is removed by the next write.
        let _ = fs::remove_dir_all(&temporary);
        return Err(e);
    }
    if dir.exists() {
        rename(dir, &old)?;
    }
    rename(&temporary, dir)?;
    sync_folder(parent(dir))?;
    remove(&old)
}

/// Checks that a new folder can be made at `dir`: nothing is there, and what it would be in is a folder.
///
/// # Errors
/// [`Error::Checkpoint`].
pub fn require_new(dir: &Path) -> Result<()> {
    match dir.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        _ => return Err(Error::checkpoint(dir, "expected no file or folder of this name yet, found one")),
    }
    if !parent(dir).is_dir() {
        let message = format!("expected an existing folder to make it in, got {}", parent(dir).display());
        return Err(Error::checkpoint(dir, message));
    }
    Ok(())
}

/// Makes the folder `dir`, where nothing may be yet, of what `files` writes into the folder that it is handed: it is there as a
/// whole, or not at all. Nothing else is touched, whatever its name.
///
/// # Errors
/// As [`require_new`]; those of `files`; [`Error::Io`].
pub fn create_atomically(dir: &Path, files: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    require_new(dir)?;
    // A name of this process alone: what stands beside `dir` is somebody else's.
    let temporary = sibling(dir, &format!(".{}.tmp", std::process::id()));
    fs::create_dir(&temporary).map_err(Error::io("creating", &temporary))?;
    let made = files(&temporary).and_then(|()| sync_files(&temporary)).and_then(|()| require_new(dir));
    if let Err(e) = made.and_then(|()| rename(&temporary, dir)) {
        // The failure that matters is `e`.
        let _ = fs::remove_dir_all(&temporary);
        return Err(e);
    }
    sync_folder(parent(dir))
}

/// The complete checkpoint that belongs to the name `dir`: `dir` itself, or `dir.old` after a crash between two renames.
///
/// # Errors
/// [`Error::Checkpoint`] when there is neither.
pub fn locate(dir: &Path) -> Result<PathBuf> {
    [dir.to_owned(), sibling(dir, ".old")]
        .into_iter()
        .find(|p| p.is_dir())
        .ok_or_else(|| Error::checkpoint(dir, "expected a checkpoint folder, found none"))
}

/// Replaces one file by `content`: written beside it, flushed, renamed. A link that is in the way there is removed, not
/// followed.
///
/// # Errors
/// [`Error::Io`]; the old file is then as before.
pub fn write_file_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = sibling(path, ".tmp");
    remove(&temporary)?;
    let write = || {
        let mut file = File::create_new(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    };
    if let Err(e) = write() {
        // The failure that matters is `e`.
        let _ = remove(&temporary);
        return Err(Error::io("writing", path)(e));
    }
    rename(&temporary, path)?;
    sync_folder(parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &str) -> impl FnOnce(&Path) -> Result<()> {
        move |dir| fs::write(dir.join("a"), text).map_err(Error::io("writing", dir))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_else() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("checkpoint");
        write_atomically(&dir, put("1")).unwrap();
        write_atomically(&dir, put("2")).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "2");
        assert_eq!(names(run.path()), ["checkpoint"]);
    }

    #[test]
    fn a_write_that_fails_keeps_the_old_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("checkpoint");
        write_atomically(&dir, put("1")).unwrap();
        let full = |part: &Path| {
            fs::write(part.join("a"), "half").unwrap();
            Err(Error::io("writing", part)(std::io::ErrorKind::StorageFull.into()))
        };
        assert!(matches!(write_atomically(&dir, full), Err(Error::Io { .. })));
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(names(run.path()), ["checkpoint"]);
    }

    #[test]
    fn a_crash_at_any_point_is_recovered_from() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("checkpoint");
        assert!(locate(&dir).is_err());
        // Before the first rename: a complete old one, a temporary of unknown state.
        write_atomically(&dir, put("1")).unwrap();
        fs::create_dir(run.path().join("checkpoint.tmp")).unwrap();
        assert_eq!(locate(&dir).unwrap(), dir);
        // Between the renames: a failing write then restores the name, a good one replaces it.
        fs::rename(&dir, run.path().join("checkpoint.old")).unwrap();
        assert_eq!(fs::read_to_string(locate(&dir).unwrap().join("a")).unwrap(), "1");
        write_atomically(&dir, |d| Err(Error::checkpoint(d, "injected"))).unwrap_err();
        assert_eq!(names(run.path()), ["checkpoint"]);
        // After both renames, before the removal.
        fs::create_dir(run.path().join("checkpoint.old")).unwrap();
        write_atomically(&dir, put("2")).unwrap();
        assert_eq!(fs::read_to_string(locate(&dir).unwrap().join("a")).unwrap(), "2");
        assert_eq!(names(run.path()), ["checkpoint"]);
    }

    #[test]
    fn a_new_folder_is_there_as_a_whole_or_not_at_all_and_its_neighbours_stay() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("new");
        for neighbour in ["new.old", "new.tmp"] {
            fs::create_dir(place.path().join(neighbour)).unwrap();
        }
        create_atomically(&dir, |part| {
            put("half")(part)?;
            Err(Error::checkpoint(part, "injected"))
        })
        .unwrap_err();
        assert_eq!(names(place.path()), ["new.old", "new.tmp"]);
        let nested = |part: &Path| {
            fs::create_dir(part.join("inner")).unwrap();
            put("1")(&part.join("inner"))
        };
        create_atomically(&dir, nested).unwrap();
        assert_eq!(fs::read_to_string(dir.join("inner/a")).unwrap(), "1");
        let message = create_atomically(&dir, put("2")).unwrap_err().to_string();
        assert!(message.contains("expected no file or folder of this name yet, found one"), "{message}");
        assert_eq!(names(place.path()), ["new", "new.old", "new.tmp"]);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("config.toml");
        write_file_atomically(&path, b"one").unwrap();
        write_file_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(run.path()), ["config.toml"]);
    }
    #[cfg(unix)]
    #[test]
    fn links_in_the_place_of_temporaries_are_not_followed() {
        use std::os::unix::fs::symlink;
        let run = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("file"), "theirs").unwrap();
        let at = |name: &str| run.path().join(name);
        for target in [other.path().join("file"), other.path().join("missing")] {
            symlink(&target, at("config.toml.tmp")).unwrap();
            write_file_atomically(&at("config.toml"), b"mine").unwrap();
            assert!(!at("config.toml").is_symlink());
        }
        for target in [other.path().to_owned(), other.path().join("missing"), other.path().join("file")] {
            symlink(&target, at("checkpoint.tmp")).unwrap();
            symlink(&target, at("checkpoint.old")).unwrap();
            write_atomically(&at("checkpoint"), put("1")).unwrap();
            assert!(!at("checkpoint").is_symlink());
        }
        assert_eq!(fs::read_to_string(other.path().join("file")).unwrap(), "theirs");
        assert_eq!(names(other.path()), ["file"]);
        assert_eq!(names(run.path()), ["checkpoint", "config.toml"]);
    }

    #[test]
    fn a_folder_that_is_gone_is_not_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("run");
        assert!(write_atomically(&run.join("checkpoint"), put("1")).is_err());
        assert!(write_file_atomically(&run.join("summary.json"), b"1").is_err());
        assert!(!run.exists());
    }
}
