//! Frames without a window: for tests, and for films.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use eframe::egui::{self, ColorImage, Context, FullOutput, RawInput};
use eframe::egui_wgpu::{Renderer, RendererOptions, ScreenDescriptor};
use sdmoe::gpu::device_descriptor;
use sdmoe::{ErrorKind, Gpu, GpuOptions, wgpu};

use crate::app::Live;
use crate::session::{Status, session};
use crate::settings::Settings;
use crate::{export, platform, texts};

const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba8Unorm;

/// Trains so many steps and draws a frame whenever so many more are done, the last one in any case.
///
/// # Errors
/// A message where there is no adapter, training fails or a file cannot be written.
pub fn run(settings: Settings, folder: &Path, size: [u32; 2], steps: u64, every: u64) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("making {}: {e}", folder.display()))?;
    let gpu = open()?;
    let sources = texts::inside();
    let (news, heard) = channel();
    let tell = move || {
        let _ = news.send(());
    };
    let (handle, session) = session(gpu.clone(), settings.clone(), sources.clone(), tell);
    let mut live = Live::new(&gpu, handle, &settings, sources.clone());
    let (give, fresh) = channel();
    let session = session.limited_to(steps).reopening(Box::new(move || {
        let gpu = open()?;
        let _ = give.send(gpu.clone());
        Ok(gpu)
    }));
    let worker = platform::spawn(move || session.run(sources));
    let mut film = Film::new(&gpu, size);
    let drawn = frames(&mut live, &heard, (&mut film, &fresh), folder, every);
    live.stop();
    let joined = worker.join().map_err(|_| "training panicked".to_owned());
    drawn.and(joined)?;
    let status = live.session().state.lock().status.clone();
    if let Status::Failed(message) = status {
        return Err(message);
    }
    let step = live.session().state.lock().losses[0].len();
    frame(&mut live, (&mut film, &fresh), &folder.join(format!("{step:06}.png")))?;
    let state = live.session().state.lock();
    let csv = folder.join("figures.csv");
    std::fs::write(&csv, export::csv(&state)).map_err(|e| format!("writing {}: {e}", csv.display()))?;
    let last = |losses: &[f32]| losses.last().copied().unwrap_or(f32::NAN);
    println!(
        "{step} steps, loss {:.3} decoupled and {:.3} plain, first loss after {:.1} s, {} looks; frames in {}",
        last(&state.losses[0]),
        last(&state.losses[1]),
        state.first_loss.unwrap_or(f64::NAN),
        state.looks.len(),
        folder.display()
    );
    Ok(())
}

/// A device that draws and trains.
fn open() -> Result<Gpu, String> {
    let open = async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter =
            instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.map_err(|e| e.to_string())?;
        let description = device_descriptor(&adapter, wgpu::DeviceDescriptor::default());
        adapter.request_device(&description).await.map_err(|e| e.to_string())
    };
    let (device, queue) = pollster::block_on(open)?;
    Gpu::from_device(device, queue, &GpuOptions::default()).map_err(|e| e.to_string())
}

/// Draws while the session works; returns when it has ended.
fn frames(
    live: &mut Live,
    heard: &Receiver<()>,
    (film, fresh): (&mut Film, &Receiver<Gpu>),
    folder: &Path,
    every: u64,
) -> Result<(), String> {
    let mut next = every;
    loop {
        match heard.recv_timeout(Duration::from_millis(200)) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let (step, failed) = {
            let state = live.session().state.lock();
            (state.losses[0].len() as u64, matches!(state.status, Status::Failed(_)))
        };
        if failed {
            return Ok(());
        }
        if step >= next {
            frame(live, (film, fresh), &folder.join(format!("{step:06}.png")))?;
            next = step - step % every + every;
        }
    }
}

/// Draws a frame, on the session's newest device; one that is due while a device is lost is left out.
fn frame(live: &mut Live, (film, fresh): (&mut Film, &Receiver<Gpu>), path: &Path) -> Result<(), String> {
    if let Some(gpu) = fresh.try_iter().last() {
        *film = Film::new(&gpu, film.size);
    }
    // The renderer panics where a device that is gone gives no memory.
    let drawn = catch_unwind(AssertUnwindSafe(|| film.keep(live, path)));
    match drawn.unwrap_or_else(|_| Err("drawing panicked".to_owned())) {
        Err(error) if pollster::block_on(film.gpu.finish()).is_err_and(|e| e.kind() == ErrorKind::DeviceLost) => {
            log::warn!("{} is left out, as the device is lost: {error}", path.display());
            Ok(())
        }
        drawn => drawn,
    }
}

/// A texture that the charts are drawn into.
struct Film {
    gpu: Gpu,
    context: Context,
    renderer: Renderer,
    texture: wgpu::Texture,
    size: [u32; 2],
    time: f64,
}

impl Film {
    fn new(gpu: &Gpu, size: [u32; 2]) -> Self {
        let device = gpu.device();
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("frame"),
            size: wgpu::Extent3d { width: size[0], height: size[1], depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: FORMAT,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let context = Context::default();
        context.set_theme(egui::Theme::Dark);
        let renderer =
            Renderer::new(device, FORMAT, RendererOptions { dithering: false, ..RendererOptions::default() });
        Self { gpu: gpu.clone(), context, renderer, texture, size, time: 0.0 }
    }

    /// Draws the window's content and keeps it as PNG.
    fn keep(&mut self, live: &mut Live, path: &Path) -> Result<(), String> {
        // A layout settles in the second pass.
        self.pass(live);
        let output = self.pass(live);
        let image = self.draw(&output)?;
        let bytes = export::png(&image).map_err(|e| e.to_string())?;
        std::fs::write(path, bytes).map_err(|e| format!("writing {}: {e}", path.display()))
    }

    fn pass(&mut self, live: &mut Live) -> FullOutput {
        self.time += 0.5;
        let size = egui::vec2(self.size[0] as f32, self.size[1] as f32);
        let input = RawInput {
            screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, size)),
            time: Some(self.time),
            ..Default::default()
        };
        let mut output = self.context.run_ui(input, |ui| live.ui(ui));
        for (id, deltas) in output.textures_delta.set.drain() {
            for delta in &deltas {
                self.renderer.update_texture(self.gpu.device(), self.gpu.queue(), id, delta);
            }
        }
        for id in output.textures_delta.free.drain() {
            self.renderer.free_texture(&id);
        }
        output
    }

    fn draw(&mut self, output: &FullOutput) -> Result<ColorImage, String> {
        let (device, queue, [width, height]) = (self.gpu.device(), self.gpu.queue(), self.size);
        let jobs = self.context.tessellate(output.shapes.clone(), output.pixels_per_point);
        let screen = ScreenDescriptor { size_in_pixels: self.size, pixels_per_point: output.pixels_per_point };
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let more = self.renderer.update_buffers(device, queue, &mut encoder, &jobs, &screen);
        let view = self.texture.create_view(&wgpu::TextureViewDescriptor::default());
        {
            let [r, g, b, a] = self.context.global_style().visuals.panel_fill.to_normalized_gamma_f32().map(f64::from);
            let background = wgpu::Color { r, g, b, a };
            let attachment = wgpu::RenderPassColorAttachment {
                view: &view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations { load: wgpu::LoadOp::Clear(background), store: wgpu::StoreOp::Store },
            };
            let pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                color_attachments: &[Some(attachment)],
                ..Default::default()
            });
            self.renderer.render(&mut pass.forget_lifetime(), &jobs, &screen);
        }
        let row = (width * 4).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("frame"),
            size: u64::from(row) * u64::from(height),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row), rows_per_image: None };
        let target = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        encoder.copy_texture_to_buffer(self.texture.as_image_copy(), target, self.texture.size());
        queue.submit(more.into_iter().chain([encoder.finish()]));
        let (sender, mapped) = channel();
        buffer.slice(..).map_async(wgpu::MapMode::Read, move |result| drop(sender.send(result)));
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| e.to_string())?;
        mapped.recv().map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let bytes = buffer.slice(..).get_mapped_range().map_err(|e| e.to_string())?;
        let rgba: Vec<u8> = bytes.chunks(row as usize).flat_map(|row| &row[..width as usize * 4]).copied().collect();
        Ok(ColorImage::from_rgba_unmultiplied([width as usize, height as usize], &rgba))
    }
}
