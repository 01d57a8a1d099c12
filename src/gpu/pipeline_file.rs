//! The file in which the driver's pipelines wait for the next process.
//!
//! One file for each adapter and driver: a mark, a checksum of the rest, the length of the adapter's identity, that
//! identity, and the driver's data. A file that is not exactly that is reported in the log, ignored and replaced.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::Path;

use crate::files;

/// The bytes that a file begins with; the last byte is the version of its layout.
const MARK: [u8; 8] = *b"sdmoepc\x01";
/// The largest file, in bytes. All kernels of this crate compile to a few MB; the data of older ones stay until the
/// crate's version changes, and no driver gives a part back, so past this the file starts anew.
const MOST_BYTES: u64 = 64 << 20;

/// The data that [`wgpu::PipelineCache::get_data`] returned to a process that has this adapter, driver and version too,
/// as far as a file can tell.
pub(super) struct Data(Vec<u8>);

impl Data {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A checksum whose algorithm is not stable: another Rust release may give another sum, and then the file is made anew.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The content of a file with what `get_data` returned.
pub(super) fn seal(identity: &str, data: &[u8]) -> Vec<u8> {
    let body = [&(identity.len() as u64).to_le_bytes(), identity.as_bytes(), data].concat();
    [&MARK, &checksum(&body).to_le_bytes(), &body[..]].concat()
}

/// The data in a file, or what is wrong with it.
fn unseal(identity: &str, file: &[u8]) -> Result<Data, &'static str> {
    let rest = file.strip_prefix(&MARK).ok_or("not a pipeline cache of this form")?;
    let (sum, body) = rest.split_first_chunk().ok_or("cut off")?;
    if checksum(body) != u64::from_le_bytes(*sum) {
        return Err("cut off or damaged");
    }
    let (length, rest) = body.split_first_chunk().ok_or("cut off")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "damaged")?;
    let (name, data) = rest.split_at_checked(length).ok_or("damaged")?;
    if name != identity.as_bytes() {
        return Err("made for another adapter, driver or version");
    }
    Ok(Data(data.to_vec()))
}

/// The data in the file at `path`, which need not be there.
pub(super) fn read(path: &Path, identity: &str) -> io::Result<Data> {
    unseal(identity, &files::read_small(path, MOST_BYTES)?).map_err(io::Error::other)
}

/// Replaces the file at `path`; one that a crash of the machine leaves damaged is found to be so.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if content.len() as u64 > MOST_BYTES {
        // What was there is a large part of it.
        let _ = fs::remove_file(path);
        return Err(io::Error::other(format!("{} bytes are too many; the next process starts anew", content.len())));
    }
    files::replace(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "key\nadapter\ndriver\n22.3\n0.1.0";
    const DATA: &[u8] = b"what the driver compiled";

    #[test]
    fn a_file_gives_back_the_data_to_the_same_identity_alone() {
        let file = seal(IDENTITY, DATA);
        assert_eq!(unseal(IDENTITY, &file).map(|d| d.0), Ok(DATA.to_vec()));
        assert_eq!(unseal(IDENTITY, &seal(IDENTITY, b"")).map(|d| d.0), Ok(Vec::new()));
        for other in ["key\nadapter\ndriver\n22.4\n0.1.0", "key\nadapter\ndriver\n22.3\n0.1.1", "", "key"] {
            assert_eq!(unseal(other, &file).map(|d| d.0), Err("made for another adapter, driver or version"));
        }
    }

    #[test]
    fn a_file_that_was_cut_off_prolonged_or_changed_anywhere_is_refused() {
        let file = seal(IDENTITY, DATA);
        for length in 0..file.len() {
            assert!(unseal(IDENTITY, &file[..length]).is_err(), "cut off at {length}");
        }
        assert!(unseal(IDENTITY, &[&file[..], &[0]].concat()).is_err());
        for at in 0..file.len() {
            for bit in [0, 7] {
                let mut file = file.clone();
                file[at] ^= 1 << bit;
                assert!(unseal(IDENTITY, &file).is_err(), "bit {bit} of byte {at}");
            }
        }
        // Lengths that the checksum covers but that a careless writer gave.
        for length in [u64::MAX, 1 << 40, 1000] {
            let body = [&length.to_le_bytes(), DATA].concat();
            assert!(unseal(IDENTITY, &[&MARK, &checksum(&body).to_le_bytes(), &body[..]].concat()).is_err());
        }
    }

    #[test]
    fn a_file_past_the_limit_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, &seal(IDENTITY, DATA)).unwrap();
        assert_eq!(read(&path, IDENTITY).unwrap().0, DATA);
        assert!(write(&path, &vec![0; MOST_BYTES as usize + 1]).unwrap_err().to_string().contains("too many"));
        assert!(!path.exists(), "the next process starts anew");
        fs::File::create(&path).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert_eq!(read(&path, IDENTITY).err().unwrap().to_string(), "too large");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_or_a_device_is_not_read_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        for path in [&path, Path::new("/dev/zero")] {
            assert_eq!(read(path, IDENTITY).err().unwrap().to_string(), "no regular file");
        }
        write(&path, &seal(IDENTITY, DATA)).unwrap();
        assert_eq!(read(&path, IDENTITY).unwrap().0, DATA);
    }
}
