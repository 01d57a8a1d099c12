//! The window on a desktop, and the canvas in a browser tab.

use std::cell::RefCell;
use std::rc::Rc;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use eframe::egui::{self, Context, Ui};
use eframe::{CreationContext, Frame};
use sdmoe::{ErrorKind, Gpu, GpuOptions};
use web_time::Instant;

use crate::app::Live;
use crate::session::session;
use crate::settings::Settings;
use crate::{platform, texts};

/// The application: a device, two trainers beside it, and the charts.
pub struct Window {
    stage: Stage,
    /// The window's title, and since when it is so.
    title: (String, Option<Instant>),
    /// Whether what is drawn is stored as sRGB.
    srgb: bool,
    /// The reason why the device that draws the window is gone, when it is.
    lost: Arc<OnceLock<String>>,
}

/// A session with its charts, which outlives its window: with the device that draws it a window is lost, too.
pub struct Play {
    /// The charts.
    pub live: Live,
    /// The device of the window that there is now or was last.
    gpu: Gpu,
    /// Whether that window closed because its device is gone.
    lost: bool,
    /// The window to tell of news.
    #[cfg(not(target_arch = "wasm32"))]
    ctx: Arc<Mutex<Context>>,
    /// The devices of later windows, or why there are none, for the session; nothing at its end.
    #[cfg(not(target_arch = "wasm32"))]
    devices: Option<Sender<Result<Gpu, String>>>,
    #[cfg(not(target_arch = "wasm32"))]
    worker: Option<std::thread::JoinHandle<()>>,
}

/// The place of a session between one window and the next; empty before the first.
pub type Stage = Rc<RefCell<Option<Play>>>;

/// The time from one frame to the next while nothing but figures changes: a software driver draws and trains on the same
/// processors.
fn pace(gpu: &Gpu) -> Duration {
    Duration::from_millis(if gpu.adapter().is_software() { 250 } else { 33 })
}

impl Window {
    /// The application on the device that draws its window: the session of `stage` or, without one, a new one.
    ///
    /// # Errors
    /// Where the window is not drawn by wgpu, or the device cannot run the kernels.
    pub fn new(
        cc: &CreationContext<'_>,
        settings: Settings,
        stage: Stage,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        cc.egui_ctx.set_theme(egui::Theme::Dark);
        let render = cc.wgpu_render_state.as_ref().ok_or("the window is not drawn by wgpu")?;
        let gpu = Gpu::from_device(render.device.clone(), render.queue.clone(), &GpuOptions::default())?;
        let lost = Arc::new(OnceLock::new());
        let (told, ctx) = (lost.clone(), cc.egui_ctx.clone());
        render.device.set_device_lost_callback(move |reason, message| {
            let _ = told.set(if message.is_empty() { format!("{reason:?}").to_lowercase() } else { message });
            ctx.request_repaint();
        });
        let mut play = stage.borrow_mut();
        match &mut *play {
            #[cfg(not(target_arch = "wasm32"))]
            Some(play) => play.move_to(&cc.egui_ctx, &gpu),
            _ => *play = Some(Play::new(&cc.egui_ctx, &gpu, &settings)),
        }
        drop(play);
        Ok(Self { stage, title: ("sdmoe live".to_owned(), None), srgb: render.target_format.is_srgb(), lost })
    }
}

impl Play {
    fn new(ctx: &Context, gpu: &Gpu, settings: &Settings) -> Self {
        let pace = pace(gpu);
        let ctx = Arc::new(Mutex::new(ctx.clone()));
        let of_news = ctx.clone();
        let news = move || of_news.lock().unwrap_or_else(PoisonError::into_inner).request_repaint_after(pace);
        let sources = texts::inside();
        let (handle, session) = session(gpu.clone(), settings.clone(), sources.clone(), news);
        let live = Live::new(gpu, handle, settings, sources.clone());
        #[cfg(not(target_arch = "wasm32"))]
        let (devices, session) = {
            let (devices, given) = channel();
            (devices, session.reopening(Box::new(move || next(&given))))
        };
        let worker = platform::spawn(move || session.run(sources));
        #[cfg(target_arch = "wasm32")]
        let () = worker;
        Self {
            live,
            gpu: gpu.clone(),
            lost: false,
            #[cfg(not(target_arch = "wasm32"))]
            ctx,
            #[cfg(not(target_arch = "wasm32"))]
            devices: Some(devices),
            #[cfg(not(target_arch = "wasm32"))]
            worker: Some(worker),
        }
    }
}

/// The part of a desktop: a page has one canvas, whose device it cannot get again.
#[cfg(not(target_arch = "wasm32"))]
impl Play {
    /// Goes on in another window.
    fn move_to(&mut self, ctx: &Context, gpu: &Gpu) {
        *self.ctx.lock().unwrap_or_else(PoisonError::into_inner) = ctx.clone();
        self.live.moved_to(gpu);
        (self.gpu, self.lost) = (gpu.clone(), false);
        self.tell(Ok(gpu.clone()));
    }

    /// Another window cannot be opened.
    pub fn not_moved(&self, error: &str) {
        self.tell(Err(error.to_owned()));
    }

    fn tell(&self, device: Result<Gpu, String>) {
        if let Some(devices) = &self.devices {
            let _ = devices.send(device);
        }
    }

    /// Whether the last window is gone with its device.
    pub fn is_lost(&self) -> bool {
        // One that the user closed is not.
        let open = self.worker.is_some();
        self.lost || open && pollster::block_on(self.gpu.finish()).is_err_and(|e| e.kind() == ErrorKind::DeviceLost)
    }

    /// Ends the session. The device outlives whoever works on it.
    pub fn end(&mut self) {
        self.live.stop();
        // Nor does the session wait for another window.
        self.devices = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

#[cfg(target_arch = "wasm32")]
impl Play {
    fn end(&mut self) {
        self.live.stop();
    }
}

/// The device of the next window, for which the session waits.
#[cfg(not(target_arch = "wasm32"))]
fn next(devices: &Receiver<Result<Gpu, String>>) -> Result<Gpu, String> {
    /// Longer than any window takes to open.
    const LONGEST: Duration = Duration::from_secs(60);
    let device = devices.recv_timeout(LONGEST).unwrap_or_else(|_| Err("no window came".to_owned()));
    // Of several windows one after the other the last is there.
    devices.try_iter().last().unwrap_or(device)
}

impl eframe::App for Window {
    fn ui(&mut self, ui: &mut Ui, _frame: &mut Frame) {
        let mut play = self.stage.borrow_mut();
        let Some(play) = &mut *play else { return };
        // Of the two that find it out, wgpu says why.
        let found = play.gpu.check().err().filter(|e| e.kind() == ErrorKind::DeviceLost).map(|e| e.to_string());
        if let Some(reason) = self.lost.get().cloned().or(found) {
            // Nothing is drawn: there is nothing to draw with.
            if !std::mem::replace(&mut play.lost, true) {
                platform::device_lost(ui.ctx(), &reason, &play.live);
            }
            return;
        }
        play.live.ui(ui);
        let title = play.live.title();
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
        if let Some(play) = self.stage.borrow_mut().as_mut().filter(|play| !play.lost) {
            play.end();
        }
    }
}
