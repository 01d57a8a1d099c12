//! Files that a person names: only regular ones are opened, because a pipe may wait for ever and a device need not end.
//!
//! Links are followed, as everywhere; one that leads nowhere is called that.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// The kind of what stands at a path, for a person: `a file`, `a folder`, `a named pipe`, `a device` ...
pub(crate) fn kind(about: &Metadata) -> &'static str {
    let what = about.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if what.is_fifo() {
            return "a named pipe";
        } else if what.is_socket() {
            return "a socket";
        } else if what.is_char_device() || what.is_block_device() {
            return "a device";
        }
    }
    if what.is_dir() {
        "a folder"
    } else if what.is_file() {
        "a file"
    } else {
        "something else"
    }
}

/// Metadata of a path, after its links.
///
/// # Errors
/// [`Error::Io`], which distinguishes a link that leads nowhere or in a circle from a path where nothing is.
pub(crate) fn about(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(|e| {
        let e = match broken_link(path, &e) {
            Some(link) => io::Error::new(e.kind(), link),
            None => e,
        };
        Error::io("reading", path)(e)
    })
}

/// Describes the link at `path` that following ended with `error`: where it leads to, or why it cannot be followed.
/// None where there is no link.
pub(crate) fn broken_link(path: &Path, error: &io::Error) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(match error.kind() {
        ErrorKind::NotFound => format!("a link to {}, which does not exist", target.display()),
        _ => format!("a link that cannot be followed: {error}"),
    })
}

/// Metadata of a regular file.
///
/// # Errors
/// [`Error::Io`] when it cannot be looked at, or is a folder, a pipe, a device or a socket.
pub(crate) fn regular(path: &Path) -> Result<Metadata> {
    let about = about(path)?;
    if about.is_file() {
        return Ok(about);
    }
    let message = format!("expected a file, found {}", kind(&about));
    Err(Error::io("reading", path)(io::Error::new(ErrorKind::InvalidInput, message)))
}

/// Reads a regular file whole.
///
/// # Errors
/// As [`regular`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    regular(path)?;
    fs::read(path).map_err(Error::io("reading", path))
}

/// Reads a regular file whole, unless it is longer than `most` bytes.
///
/// # Errors
/// As [`regular`], and [`Error::Io`] with both lengths.
pub(crate) fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let bytes = regular(path)?.len();
    if bytes > most {
        let message = format!("expected at most {most} bytes, got {bytes}");
        return Err(Error::io("reading", path)(io::Error::new(ErrorKind::InvalidInput, message)));
    }
    read(path)
}

/// Reads a regular file of at most `most` bytes whole, for callers to whom it is no error that it is missing or
/// another's.
///
/// # Errors
/// [`ErrorKind::NotFound`] where nothing is, else the reason why it is not read.
pub(crate) fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        // A pipe may wait for ever, a device need not end.
        return Err(io::Error::other("no regular file"));
    }
    if about.len() > most {
        return Err(io::Error::other("too large"));
    }
    fs::read(path)
}

/// Replaces the file at `path` in one step, in a folder that is made where it is missing. Nothing is flushed to the
/// disk: it is for what can be made again, and what a crash of the machine leaves damaged must be found to be so.
///
/// # Errors
/// The reason why it cannot be written; the old file is then as before.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// A file beside `path` that has no name of its own yet, readable as a new file is.
#[cfg(feature = "analysis")]
fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[cfg_attr(not(unix), allow(unused_mut, reason = "only Unix has permissions to set"))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Tries whether [`replace_with`] could write at `path`, and leaves nothing behind.
///
/// # Errors
/// The reason why not.
#[cfg(feature = "analysis")]
pub(crate) fn replaceable(path: &Path) -> io::Result<()> {
    beside(path).map(drop)
}

/// Replaces the file at `path`, whose folder exists, in one step by what `content` writes, and flushes it to the disk
/// first.
///
/// # Errors
/// The reason why it cannot be written; what was at `path` is then as before.
#[cfg(feature = "analysis")]
pub(crate) fn replace_with(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = beside(path)?;
    content(&mut file)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(read(&file).unwrap(), b"x");
        let message = |path: &Path| read(path).unwrap_err().to_string();
        assert!(message(dir.path()).ends_with("expected a file, found a folder"), "{}", message(dir.path()));
        assert!(message(&dir.path().join("missing")).contains("missing: "));
    }

    #[cfg(unix)]
    #[test]
    fn devices_sockets_pipes_and_links_to_nothing_are_called_by_their_names() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let message = |path: &Path| read(path).unwrap_err().to_string();
        assert_eq!(message(Path::new("/dev/zero")), "reading /dev/zero: expected a file, found a device");
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        assert!(message(&path("socket")).ends_with("found a socket"));
        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        assert!(message(&path("pipe")).ends_with("found a named pipe"));
        for (link, target, wanted) in [
            ("nowhere", "nothing", "nowhere: a link to nothing, which does not exist"),
            ("circle", "circle", "circle: a link that cannot be followed: "),
            ("to-pipe", "pipe", "to-pipe: expected a file, found a named pipe"),
        ] {
            symlink(target, path(link)).unwrap();
            assert!(message(&path(link)).contains(wanted), "{}", message(&path(link)));
        }
        fs::write(path("file"), "x").unwrap();
        symlink("file", path("to-file")).unwrap();
        assert_eq!(read(&path("to-file")).unwrap(), b"x");
    }
}
