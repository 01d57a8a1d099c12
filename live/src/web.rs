//! The page: the same application on the canvas of a browser with WebGPU.

use std::sync::Arc;

use eframe::egui_wgpu::{WgpuConfiguration, WgpuSetup, WgpuSetupCreateNew};
use sdmoe::gpu::device_descriptor;
use sdmoe::wgpu;
use wasm_bindgen::JsCast;

use crate::settings::Settings;
use crate::window::{Stage, Window};

/// Starts the page.
pub fn main() {
    console_error_panic_hook::set_once();
    let _ = console_log::init_with_level(log::Level::Info);
    wasm_bindgen_futures::spawn_local(async {
        match start().await {
            Ok(()) => say(""),
            Err(message) => say(&message),
        }
    });
}

async fn start() -> Result<(), String> {
    let window = web_sys::window().ok_or("no window")?;
    let document = window.document().ok_or("no document")?;
    let canvas = document.get_element_by_id("live").ok_or("no canvas of that name")?;
    let canvas: web_sys::HtmlCanvasElement = canvas.dyn_into().map_err(|_| "`live` is no canvas")?;
    let settings = Settings::from_link(&window.location().hash().unwrap_or_default())?;
    let mut setup = WgpuSetupCreateNew::without_display_handle();
    setup.instance_descriptor.backends = wgpu::Backends::BROWSER_WEBGPU;
    setup.device_descriptor = Arc::new(|adapter| device_descriptor(adapter, wgpu::DeviceDescriptor::default()));
    let options = eframe::WebOptions {
        wgpu_options: WgpuConfiguration { wgpu_setup: WgpuSetup::CreateNew(setup), ..Default::default() },
        // As on a desktop (native.rs).
        dithering: false,
        ..Default::default()
    };
    let create = move |cc: &eframe::CreationContext<'_>| -> Result<Box<dyn eframe::App>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(Window::new(cc, settings, Stage::default())?))
    };
    eframe::WebRunner::new().start(canvas, options, Box::new(create)).await.map_err(|e| format!("{e:?}"))
}

/// Puts words on the page; none take them away.
fn say(words: &str) {
    let element = web_sys::window().and_then(|w| w.document()).and_then(|d| d.get_element_by_id("words"));
    if let Some(element) = element {
        element.set_text_content(Some(words));
    }
}

/// Says on the page that its device is gone, which the page cannot get again, with a link that keeps the `figures`.
pub fn device_lost(reason: &str, figures: &str) {
    let element = web_sys::window().and_then(|w| w.document()).and_then(|d| d.get_element_by_id("words"));
    // Once is enough.
    let Some(element) = element.filter(|e| e.text_content().is_none_or(|text| text.is_empty())) else { return };
    element.set_text_content(Some(&format!(
        "The browser has taken the graphics device away ({reason}).\n\
         Training has stopped, and this page cannot go on: reload it to begin again from the first step.\n"
    )));
    // Above the last picture, and to be clicked.
    let _ = element.set_attribute("style", "background: #1b1b1b; pointer-events: auto; flex-direction: column");
    if let Some(link) = link("sdmoe-live.csv", figures.as_bytes()) {
        link.set_text_content(Some("Save the figures so far as CSV"));
        let _ = link.set_attribute("style", "color: #4fb5e8");
        let _ = element.append_child(&link);
    }
}

/// A link that downloads `bytes` as a file.
pub fn link(name: &str, bytes: &[u8]) -> Option<web_sys::HtmlAnchorElement> {
    let parts = js_sys::Array::of1(&js_sys::Uint8Array::from(bytes));
    let blob = web_sys::Blob::new_with_u8_array_sequence(&parts).ok()?;
    let url = web_sys::Url::create_object_url_with_blob(&blob).ok()?;
    let anchor = web_sys::window()?.document()?.create_element("a").ok()?;
    let anchor: web_sys::HtmlAnchorElement = anchor.dyn_into().ok()?;
    anchor.set_href(&url);
    anchor.set_download(name);
    Some(anchor)
}
