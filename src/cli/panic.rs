//! A panic, which is a fault of this program, of wgpu or of a driver, as one line instead of a trace.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};

/// Returns what `work` returns, or a line that reports its panic. Panics that are caught within it are not reported.
/// Where the variable RUST_BACKTRACE asks for traces, all are printed as Rust does.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let line = |what: &str| format!("a fault in sdmoe, wgpu or the driver: {what}");
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        return catch_unwind(AssertUnwindSafe(work)).map_err(|_| line("see above"));
    }
    let last = Arc::<Mutex<String>>::default();
    let of_hook = last.clone();
    let usual = take_hook();
    set_hook(Box::new(move |info| *of_hook.lock().unwrap_or_else(PoisonError::into_inner) = describe(info)));
    let result = catch_unwind(AssertUnwindSafe(work));
    set_hook(usual);
    result.map_err(|_| {
        line(&format!("{}; RUST_BACKTRACE=1 tells more", last.lock().unwrap_or_else(PoisonError::into_inner)))
    })
}

/// Returns what the panic said and where, in a file of this crate or of one that its folder names.
fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    let message = text.unwrap_or("a panic without a message").trim();
    let Some(place) = info.location() else { return message.to_owned() };
    let file = place.file();
    let file = match file.rsplit_once("/src/") {
        Some((folder, file)) => format!("{}/{file}", folder.rsplit('/').next().unwrap_or(folder)),
        None => file.to_owned(),
    };
    format!("{message} ({file}:{})", place.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_line_with_its_message_and_its_place() {
        let line = caught(|| {
            if std::hint::black_box(true) {
                panic!("vkCreateDevice: {}\n", -3)
            }
        })
        .unwrap_err();
        assert!(line.starts_with("a fault in sdmoe, wgpu or the driver: "), "{line}");
        // Other tests of this process may ask for traces, or panic meanwhile.
        if !line.ends_with("see above") {
            assert!(line.contains("vkCreateDevice: -3 (src/cli/panic.rs:"), "{line}");
        }
        assert_eq!(caught(|| 1), Ok(1));
    }
}
