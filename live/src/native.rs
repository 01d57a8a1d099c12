//! The program on a desktop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use eframe::egui::{ViewportBuilder, vec2};
use eframe::egui_wgpu::{WgpuConfiguration, WgpuSetup, WgpuSetupCreateNew};
use sdmoe::gpu::device_descriptor;
use sdmoe::wgpu;

use crate::headless;
use crate::settings::Settings;
use crate::window::Window;

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

fn window(settings: Settings, size: [u32; 2]) -> Result<(), String> {
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
        Ok(Box::new(Window::new(cc, settings)?))
    };
    eframe::run_native("sdmoe-live", options, Box::new(create)).map_err(|e| e.to_string())
}
