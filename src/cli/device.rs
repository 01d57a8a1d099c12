//! The flags that choose the device and how it is used, the same for every command that needs one.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use etcetera::BaseStrategy;

use crate::bench::tune::{self, Tune};
use crate::gpu::{Gpu, GpuOptions, Tier};
use crate::train::progress::say;

/// Flags that choose among the adapters and their kernels.
#[derive(Debug, clap::Args)]
pub(super) struct AdapterArgs {
    /// Adapter, by a part of its name or by its index (see `sdmoe devices`)
    #[arg(long, value_name = "NAME|INDEX")]
    pub(super) adapter: Option<String>,
    /// Family of kernels, instead of the one that the adapter gets (see `sdmoe devices`)
    #[arg(long, value_name = "TIER", env = "SDMOE_TIER", hide_env_values = true, value_parser = tier())]
    tier: Option<Wish<Tier>>,
    /// Most bytes of one binding, less than the adapter's own limit, as 16777216 or 16MiB; larger tensors are processed
    /// in slices
    #[arg(long, value_name = "BYTES", env = "SDMOE_MAX_BINDING", hide_env_values = true, value_parser = bytes)]
    max_binding: Option<Wish<u64>>,
}

/// Flags of a command that opens a device.
#[derive(Debug, clap::Args)]
pub(super) struct DeviceArgs {
    #[command(flatten)]
    pub(super) choice: AdapterArgs,
    /// Where compiled pipelines are kept, on adapters with Vulkan, or off [default: sdmoe in the user's cache folder]
    #[arg(long, value_name = "DIR|off", env = "SDMOE_PIPELINE_CACHE", hide_env_values = true, value_parser = cache())]
    pipeline_cache: Option<Cache>,
}

/// The flag of a command for which it may pay to time kernels first.
#[derive(Debug, clap::Args)]
pub(super) struct TuneArgs {
    /// Time the shapes in which a GPU can compute products first, for about 10 seconds, and keep the fastest as `sdmoe
    /// tune` does
    #[arg(long, value_name = "WHEN", value_enum, default_value = "off")]
    tune: Timing,
}

/// When kernels are timed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Timing {
    Off,
    WhenMissing,
    Always,
}

impl TuneArgs {
    /// Opens a device, as [`Gpu::open`] does, after what the flag asks for.
    pub(super) fn open(&self, options: &GpuOptions) -> crate::error::Result<Gpu> {
        let when = match self.tune {
            Timing::Off => Tune::Off,
            Timing::WhenMissing => Tune::WhenMissing,
            Timing::Always => Tune::Always,
        };
        tune::open(options, when, tune::LIMIT, |gpu| {
            say(&format!("{}: timing products for {} s (--tune)", gpu.adapter().name, tune::LIMIT.as_secs()));
        })
    }
}

/// A value, or that the adapter's own is wanted: `auto`, and a variable that is set to nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish<T> {
    Auto,
    Of(T),
}

impl<T: Copy> Wish<T> {
    fn of(wish: Option<Self>) -> Option<T> {
        match wish {
            Some(Wish::Of(value)) => Some(value),
            Some(Wish::Auto) | None => None,
        }
    }
}

fn tier() -> impl TypedValueParser<Value = Wish<Tier>> {
    let auto = ["auto", ""].map(|name| PossibleValue::new(name).hide(name.is_empty()));
    let tiers = Tier::ALL.map(|tier| PossibleValue::new(tier.name()).aliases(tier.former_name()));
    PossibleValuesParser::new(auto.into_iter().chain(tiers)).map(|name| Tier::named(&name).map_or(Wish::Auto, Wish::Of))
}

/// The least that a binding must hold: some rows of any model.
const LEAST_BINDING: u64 = 1 << 16;

fn bytes(text: &str) -> Result<Wish<u64>, String> {
    if text.is_empty() || text == "auto" {
        return Ok(Wish::Auto);
    }
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        _ => None,
    };
    let value = shift.and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift));
    match value {
        Some(value) if value >= LEAST_BINDING => Ok(Wish::Of(value)),
        _ => Err(format!("expected bytes, at least {LEAST_BINDING}, as 16777216 or 16MiB, or auto")),
    }
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

/// The folder of this program in the user's cache folder; a user without a home has none.
pub(super) fn cache_folder() -> Option<PathBuf> {
    etcetera::choose_base_strategy().ok().map(|places| places.cache_dir().join("sdmoe"))
}

impl AdapterArgs {
    /// The device that the flags describe, without a folder for pipelines.
    pub(super) fn options(&self) -> GpuOptions {
        GpuOptions::default()
            .adapter(self.adapter.as_deref())
            .tier(Wish::of(self.tier))
            .max_binding_bytes(Wish::of(self.max_binding))
    }
}

impl DeviceArgs {
    /// The device that the flags describe.
    pub(super) fn options(&self) -> GpuOptions {
        let pipeline_cache = match &self.pipeline_cache {
            Some(Cache::Off) => None,
            Some(Cache::Folder(folder)) => Some(folder.clone()),
            None => cache_folder(),
        };
        self.choice.options().pipeline_cache(pipeline_cache).tuned(cache_folder())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_and_without_a_unit() {
        assert_eq!(bytes("65536"), Ok(Wish::Of(65536)));
        assert_eq!(bytes("64KiB"), Ok(Wish::Of(65536)));
        assert_eq!(bytes("128MiB"), Ok(Wish::Of(128 << 20)));
        assert_eq!(bytes("2GiB"), Ok(Wish::Of(2 << 30)));
        assert_eq!((bytes("auto"), bytes("")), (Ok(Wish::Auto), Ok(Wish::Auto)));
        for wrong in ["0", "65535", "MiB", "1.5MiB", "16MB", "-1", "99999999999999999999", "17179869184GiB"] {
            assert!(bytes(wrong).unwrap_err().contains("at least 65536"), "{wrong}");
        }
    }
}
