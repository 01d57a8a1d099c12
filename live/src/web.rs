//! The page: the same application on the canvas of a browser with WebGPU.

use std::sync::Arc;

use eframe::egui_wgpu::{WgpuConfiguration, WgpuSetup, WgpuSetupCreateNew};
use sdmoe::gpu::device_descriptor;
use sdmoe::wgpu;
use wasm_bindgen::JsCast;

use crate::settings::Settings;
use crate::window::Window;

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
        Ok(Box::new(Window::new(cc, settings)?))
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
