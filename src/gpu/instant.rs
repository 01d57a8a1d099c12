//! The clocks: the standard library's, where it has them.

#[cfg(not(target_arch = "wasm32"))]
#[cfg_attr(not(feature = "verify"), allow(unused_imports))]
pub use std::time::{Instant, SystemTime};
#[cfg(target_arch = "wasm32")]
#[cfg_attr(not(feature = "verify"), allow(unused_imports))]
pub use web_time::{Instant, SystemTime};
