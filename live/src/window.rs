//! The window on a desktop, and the canvas in a browser tab.

use std::time::Duration;

use eframe::egui::{self, Ui};
use eframe::{CreationContext, Frame};
use sdmoe::{Gpu, GpuOptions};
use web_time::Instant;

use crate::app::Live;
use crate::session::session;
use crate::settings::Settings;
use crate::{platform, texts};

/// The application: a device, two trainers beside it, and the charts.
pub struct Window {
    live: Live,
    /// The window's title, and since when it is so.
    title: (String, Option<Instant>),
    /// Whether what is drawn is stored as sRGB.
    srgb: bool,
    #[cfg(not(target_arch = "wasm32"))]
    worker: Option<std::thread::JoinHandle<()>>,
}

/// The time from one frame to the next while nothing but figures changes: a software driver draws and trains on the same
/// processors.
fn pace(gpu: &Gpu) -> Duration {
    Duration::from_millis(if gpu.adapter().is_software() { 250 } else { 33 })
}

impl Window {
    /// The application on the device that draws its window.
    ///
    /// # Errors
    /// Where the window is not drawn by wgpu, or the device cannot run the kernels.
    pub fn new(cc: &CreationContext<'_>, settings: Settings) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        cc.egui_ctx.set_theme(egui::Theme::Dark);
        let render = cc.wgpu_render_state.as_ref().ok_or("the window is not drawn by wgpu")?;
        let gpu = Gpu::from_device(render.device.clone(), render.queue.clone(), &GpuOptions::default())?;
        let (ctx, pace) = (cc.egui_ctx.clone(), pace(&gpu));
        let sources = texts::inside();
        let news = move || ctx.request_repaint_after(pace);
        let (handle, session) = session(gpu.clone(), settings.clone(), sources.clone(), news);
        let live = Live::new(&gpu, handle, &settings, sources.clone());
        let worker = platform::spawn(move || session.run(sources));
        #[cfg(target_arch = "wasm32")]
        let () = worker;
        Ok(Self {
            live,
            title: ("sdmoe live".to_owned(), None),
            srgb: render.target_format.is_srgb(),
            #[cfg(not(target_arch = "wasm32"))]
            worker: Some(worker),
        })
    }
}

impl eframe::App for Window {
    fn ui(&mut self, ui: &mut Ui, _frame: &mut Frame) {
        self.live.ui(ui);
        let title = self.live.title();
        if title != self.title.0 && self.title.1.is_none_or(|since| since.elapsed() >= platform::TITLE_STAYS) {
            platform::show_title(ui.ctx(), &title);
            self.title = (title, Some(Instant::now()));
        }
        // Also where there is no news for a while: a status may have changed.
        ui.ctx().request_repaint_after(Duration::from_secs(1));
    }

    fn clear_color(&self, visuals: &egui::Visuals) -> [f32; 4] {
        if self.srgb {
            egui::Rgba::from(visuals.panel_fill).to_array()
        } else {
            visuals.panel_fill.to_normalized_gamma_f32()
        }
    }

    fn on_exit(&mut self) {
        self.live.stop();
        // The device outlives whoever works on it.
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
