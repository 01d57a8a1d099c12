//! The settings in the page's address: `?level=quick&filter=op/attention&seed=1`.

use sdmoe::verify::{Level, Options};
use web_sys::UrlSearchParams;

/// The options that an address names with `search`, the part from its question mark on.
///
/// # Errors
/// A sentence for the user, for a setting that is unknown or has an impossible value.
pub fn options(search: &str) -> Result<Options, String> {
    let given = UrlSearchParams::new_with_str(search).map_err(|_| format!("expected settings, got `{search}`"))?;
    let mut options = Options::default();
    options.level = Level::Quick;
    if let Some(name) = given.get("level") {
        options.level =
            Level::named(&name).ok_or_else(|| format!("level: expected quick, usual or full, got `{name}`"))?;
    }
    if let Some(seed) = given.get("seed") {
        options.seed = seed.parse().map_err(|_| format!("seed: expected a whole number, got `{seed}`"))?;
    }
    options.filter = given.get("filter").filter(|text| !text.is_empty());
    Ok(options)
}
