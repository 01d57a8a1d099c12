//! The flags that choose the device and how it is used, the same for every command that needs one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use etcetera::BaseStrategy;

use crate::gpu::GpuOptions;

/// Flags of a command that opens a device.
#[derive(Debug, clap::Args)]
pub(super) struct DeviceArgs {
    /// Adapter, by a part of its name or by its index (see `sdmoe devices`)
    #[arg(long, value_name = "NAME|INDEX")]
    pub(super) adapter: Option<String>,
    /// Where compiled pipelines are kept, on adapters with Vulkan, or off [default: sdmoe in the user's cache folder]
    #[arg(long, value_name = "DIR|off", env = "SDMOE_PIPELINE_CACHE", hide_env_values = true, value_parser = cache())]
    pipeline_cache: Option<Cache>,
}

/// Where compiled pipelines are kept.
#[derive(Clone, Debug, PartialEq)]
enum Cache {
    Off,
    Folder(PathBuf),
}

impl From<OsString> for Cache {
    /// An empty variable is one that is off.
    fn from(text: OsString) -> Self {
        if text.is_empty() || text == "off" { Cache::Off } else { Cache::Folder(text.into()) }
    }
}

fn cache() -> impl TypedValueParser<Value = Cache> {
    OsStringValueParser::new().map(Cache::from)
}

impl DeviceArgs {
    /// The device that the flags describe.
    pub(super) fn options(&self) -> GpuOptions {
        let pipeline_cache = match &self.pipeline_cache {
            Some(Cache::Off) => None,
            Some(Cache::Folder(folder)) => Some(folder.clone()),
            // A user without a home has no cache.
            None => etcetera::choose_base_strategy().ok().map(|places| places.cache_dir().join("sdmoe")),
        };
        GpuOptions { adapter: self.adapter.as_deref().into(), pipeline_cache, ..GpuOptions::default() }
    }
}
