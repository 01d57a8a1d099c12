//! The differences between a desktop and a browser tab: threads, waiting, and where a file goes.

use std::time::Duration;

#[cfg(not(target_arch = "wasm32"))]
use eframe::egui::ViewportCommand;
use eframe::egui::{Context, DroppedFileHandle};

use crate::app::Live;

/// Runs `work` beside the window: on a thread of its own.
#[cfg(not(target_arch = "wasm32"))]
pub fn spawn<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(|| pollster::block_on(work()))
}

/// Runs `work` beside the window: between its frames.
#[cfg(target_arch = "wasm32")]
pub fn spawn<F: Future<Output = ()> + 'static>(work: impl FnOnce() -> F + 'static) {
    wasm_bindgen_futures::spawn_local(async move { work().await });
}

/// Waits.
#[cfg(not(target_arch = "wasm32"))]
pub async fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits, while the page goes on.
#[cfg(target_arch = "wasm32")]
pub async fn pause(time: Duration) {
    let millis = time.as_millis().min(1000) as i32;
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        if let Some(window) = web_sys::window() {
            let _ = window.set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, millis);
        }
    });
    let _ = wasm_bindgen_futures::JsFuture::from(promise).await;
}

/// Keeps a file: in the folder the program runs in. Returns what to tell the user.
#[cfg(not(target_arch = "wasm32"))]
pub fn save(name: &str, bytes: &[u8]) -> String {
    match std::fs::write(name, bytes) {
        Ok(()) => format!("wrote {name}"),
        Err(error) => format!("writing {name}: {error}"),
    }
}

/// Keeps a file: as a download. Returns what to tell the user.
#[cfg(target_arch = "wasm32")]
pub fn save(name: &str, bytes: &[u8]) -> String {
    let download = || {
        let anchor = crate::web::link(name, bytes)?;
        anchor.click();
        web_sys::Url::revoke_object_url(&anchor.href()).ok()
    };
    match download() {
        Some(()) => format!("downloaded {name}"),
        None => format!("{name}: the browser took no download"),
    }
}

/// Puts the settings into the page's address.
#[cfg(target_arch = "wasm32")]
pub fn show_link(link: &str) {
    // Not by the address itself: the page begins anew when that is changed.
    if let Some(history) = web_sys::window().and_then(|window| window.history().ok()) {
        let _ = history.replace_state_with_url(&wasm_bindgen::JsValue::NULL, "", Some(&format!("#{link}")));
    }
}

/// A desktop has no address: nothing.
#[cfg(not(target_arch = "wasm32"))]
pub fn show_link(_link: &str) {}

/// Reads a file that was dropped on the window and hands over its name and content.
#[cfg(not(target_arch = "wasm32"))]
pub fn read(file: DroppedFileHandle, give: impl FnOnce(String, Result<Vec<u8>, String>) + 'static) {
    /// Bytes of a text at most.
    const MOST: u64 = 64 << 20;
    let size = std::fs::metadata(file.path()).map_or(0, |m| m.len());
    let content = if size > MOST { Err(format!("expected at most {MOST} bytes, got {size}")) } else { file.bytes() };
    give(name(&file), content);
}

/// Reads a file that was dropped on the page and hands over its name and content, once the browser has read it.
#[cfg(target_arch = "wasm32")]
pub fn read(file: DroppedFileHandle, give: impl FnOnce(String, Result<Vec<u8>, String>) + 'static) {
    wasm_bindgen_futures::spawn_local(async move {
        let content = file.bytes_async().await;
        give(name(&file), content);
    });
}

fn name(file: &DroppedFileHandle) -> String {
    file.path().file_name().map_or_else(|| "dropped".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The device that draws the window is gone: the window closes, and another opens.
#[cfg(not(target_arch = "wasm32"))]
pub fn device_lost(ctx: &Context, reason: &str, _live: &Live) {
    log::warn!("the device that draws the window is lost: {reason}");
    ctx.send_viewport_cmd(ViewportCommand::Close);
}

/// The device that draws the page is gone: the page says so.
#[cfg(target_arch = "wasm32")]
pub fn device_lost(_ctx: &Context, reason: &str, live: &Live) {
    crate::web::device_lost(reason, &crate::export::csv(&live.session().state.lock()));
}

/// The time for which a title stays: on a desktop another one costs a frame.
pub const TITLE_STAYS: Duration = Duration::from_millis(if cfg!(target_arch = "wasm32") { 0 } else { 5000 });

/// Shows a line as the page's title.
#[cfg(target_arch = "wasm32")]
pub fn show_title(_ctx: &Context, title: &str) {
    if let Some(document) = web_sys::window().and_then(|window| window.document()) {
        document.set_title(title);
    }
}

/// Shows a line as the window's title.
#[cfg(not(target_arch = "wasm32"))]
pub fn show_title(ctx: &Context, title: &str) {
    ctx.send_viewport_cmd(ViewportCommand::Title(title.to_owned()));
}
