//! The cache of compiled pipelines, which the driver fills and a file keeps between processes.
//!
//! Processes do not wait for each other: each replaces the file as a whole, so the last one's stays, and what another
//! compiled meanwhile is compiled once more.

use std::io;
use std::path::{Path, PathBuf};

use super::pipeline_file::{checksum, read, seal, write};
use super::unsafe_code;

/// The driver's cache of a device, stored when it is dropped.
pub(super) struct PipelineCache {
    raw: wgpu::PipelineCache,
    path: PathBuf,
    identity: String,
    /// Length and checksum of the data that the file holds.
    stored: Option<(u64, u64)>,
}

impl PipelineCache {
    /// The cache of `device` with what the file in `folder` holds; none where there are no such caches.
    pub(super) fn open(device: &wgpu::Device, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            log::debug!("pipeline cache: the device has none");
            return None;
        }
        let info = device.adapter_info();
        let key = wgpu::util::pipeline_cache_key(&info)?;
        // Two drivers for one adapter have a file each, two versions of a driver share one.
        let driver: String = info.driver.chars().filter(char::is_ascii_alphanumeric).collect();
        let path = folder.join(format!("{key}_{driver}"));
        let version = env!("CARGO_PKG_VERSION");
        let identity = [&key, &info.name, &info.driver, &info.driver_info, version].join("\n");
        let data = match read(&path, &identity) {
            Ok(data) => Some(data),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                log::info!("pipeline cache {}: {e}; starting anew", path.display());
                None
            }
        };
        let stored = data.as_ref().map(|data| (data.bytes().len() as u64, checksum(data.bytes())));
        log::debug!("pipeline cache {}: {} bytes", path.display(), stored.map_or(0, |(length, _)| length));
        Some(Self { raw: unsafe_code::pipeline_cache(device, data.as_ref()), path, identity, stored })
    }

    /// For the pipelines to be compiled.
    pub(super) fn raw(&self) -> wgpu::PipelineCache {
        self.raw.clone()
    }

    /// Bytes of data that the file held.
    pub(super) fn bytes_read(&self) -> u64 {
        self.stored.map_or(0, |(length, _)| length)
    }

    /// Writes the file, unless it holds the same; whether it did.
    fn store(&self) -> io::Result<bool> {
        let Some(data) = self.raw.get_data() else { return Ok(false) };
        if self.stored == Some((data.len() as u64, checksum(&data))) {
            return Ok(false);
        }
        write(&self.path, &seal(&self.identity, &data)).map(|()| true)
    }
}

impl Drop for PipelineCache {
    fn drop(&mut self) {
        // What a panic has interrupted is not worth keeping.
        if std::thread::panicking() {
            return;
        }
        match self.store() {
            Ok(true) => log::debug!("pipeline cache {}: written", self.path.display()),
            Ok(false) => {}
            Err(e) => log::info!("pipeline cache {}: not written: {e}", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_whole_file_of_another_adapter_is_ignored_and_replaced() {
        use crate::gpu::{Gpu, GpuOptions};
        let folder = tempfile::tempdir().unwrap();
        let options = GpuOptions::default().pipeline_cache(folder.path().to_owned());
        let read = || pollster::block_on(Gpu::open(&options)).unwrap().counters().pipeline_bytes_read;
        assert_eq!(read(), 0);
        // Adapters without such caches leave none.
        let Some(file) = fs::read_dir(folder.path()).unwrap().next() else { return };
        let path = file.unwrap().path();
        let good = fs::read(&path).unwrap();
        fs::write(&path, seal("of another adapter", b"what its driver compiled")).unwrap();
        assert_eq!(read(), 0);
        assert_eq!(fs::read(&path).unwrap(), good);
        assert!(read() > 0);
    }
}
