//! The program on a desktop.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use eframe::egui::{ViewportBuilder, vec2};
use eframe::egui_wgpu::{WgpuConfiguration, WgpuSetup, WgpuSetupCreateNew};
use sdmoe::gpu::device_descriptor;
use sdmoe::wgpu;

use crate::session::Status;
use crate::settings::Settings;
use crate::window::{Stage, Window};
use crate::{export, headless, platform};

/// With so many windows one after the other that cannot be opened the program ends.
const FAILURES: u32 = 2;
/// Lost devices within a minute that are borne.
const LOSSES: usize = 3;
const MINUTE: Duration = Duration::from_mins(1);

/// Watch the experts of a Mixture-of-Experts model learn, with spectral decoupling and without
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Settings, as the window saves them
    #[arg(long, value_name = "FILE", conflicts_with = "link")]
    settings: Option<PathBuf>,
    /// Settings, as the browser's address has them behind `#`
    #[arg(long, value_name = "LINK")]
    link: Option<String>,
    /// Train without a window, and draw frames into the folder of `--frames`
    #[arg(long, requires = "frames")]
    headless: bool,
    /// The folder for frames, PNG
    #[arg(long, value_name = "DIR", requires = "headless")]
    frames: Option<PathBuf>,
    /// Steps of a headless run
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Steps from frame to frame of a headless run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Size of the window or of the frames, in pixels
    #[arg(long, value_name = "WxH", default_value = "1280x800", value_parser = size)]
    size: [u32; 2],
}

fn size(text: &str) -> Result<[u32; 2], String> {
    let expected = || format!("expected two numbers from 200 to 8192 as in 1280x800, got {text}");
    let (width, height) = text.split_once('x').ok_or_else(expected)?;
    let parse = |x: &str| x.parse().ok().filter(|x| (200..=8192).contains(x)).ok_or_else(expected);
    Ok([parse(width)?, parse(height)?])
}

impl Args {
    fn settings(&self) -> Result<Settings, String> {
        match (&self.settings, &self.link) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("reading {}: {e}", path.display()))?;
                Settings::from_json(&text)
            }
            (None, Some(link)) => Settings::from_link(link),
            (None, None) => Ok(Settings::default()),
        }
    }
}

/// Runs the program; 2 is what it returns where it could not.
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,sdmoe_live=info")).init();
    let args = Args::parse();
    let run = || -> Result<(), String> {
        let settings = args.settings()?;
        match &args.frames {
            Some(folder) => headless::run(settings, folder, args.size, args.steps, args.every),
            None => window(settings, args.size),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

/// Windows one after the other: where the device that draws one is lost, the session goes on in another.
fn window(settings: Settings, size: [u32; 2]) -> Result<(), String> {
    let stage = Stage::default();
    let (mut failures, mut losses) = (0, Vec::new());
    loop {
        // The renderer panics where a device that is gone gives no memory.
        let opened = catch_unwind(AssertUnwindSafe(|| open(settings.clone(), size, &stage)));
        let mut play = stage.borrow_mut();
        let Some(play) = &mut *play else { return opened.unwrap_or_else(|panic| resume_unwind(panic)) };
        if !play.is_lost() {
            play.end();
            return opened.unwrap_or_else(|panic| resume_unwind(panic));
        }
        let error = match opened {
            Ok(Err(error)) => {
                play.not_moved(&error);
                failures += 1;
                std::thread::sleep(Duration::from_secs(1));
                (failures >= FAILURES).then_some(error)
            }
            Ok(Ok(())) | Err(_) => {
                (failures, losses) = (0, losses.into_iter().filter(|at: &Instant| at.elapsed() < MINUTE).collect());
                losses.push(Instant::now());
                let status = play.live.session().state.lock().status.clone();
                match status {
                    Status::Failed(error) => Some(error),
                    _ => (losses.len() > LOSSES).then(|| format!("it was lost {} times in a minute", losses.len())),
                }
            }
        };
        if let Some(error) = error {
            play.end();
            let figures = export::csv(&play.live.session().state.lock());
            let kept = platform::save("sdmoe-live.csv", figures.as_bytes());
            return Err(format!("the device that draws the window is gone for good: {error} ({kept})"));
        }
    }
}

fn open(settings: Settings, size: [u32; 2], stage: &Stage) -> Result<(), String> {
    let stage = stage.clone();
    let mut setup = WgpuSetupCreateNew::without_display_handle();
    setup.instance_descriptor.backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    setup.device_descriptor = Arc::new(|adapter| device_descriptor(adapter, wgpu::DeviceDescriptor::default()));
    let options = eframe::NativeOptions {
        viewport: ViewportBuilder::default()
            .with_inner_size(vec2(size[0] as f32, size[1] as f32))
            .with_title("sdmoe live"),
        wgpu_options: WgpuConfiguration { wgpu_setup: WgpuSetup::CreateNew(setup), ..Default::default() },
        // The charts are of plain colours, and a software driver pays for each pixel.
        dithering: false,
        ..Default::default()
    };
    let create = move |cc: &eframe::CreationContext<'_>| -> Result<Box<dyn eframe::App>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(Window::new(cc, settings, stage)?))
    };
    eframe::run_native("sdmoe-live", options, Box::new(create)).map_err(|e| e.to_string())
}
