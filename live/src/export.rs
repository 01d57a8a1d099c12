//! Images and figures that leave the window.

use std::fmt::Write;

use eframe::egui::{ColorImage, Context, ScreenshotCallback, ViewportCommand};

use sdmoe::train::specialisation::PairSimilarity;

use crate::platform;
use crate::session::State;
use crate::session::look::Look;

/// Takes an image of the window at its next frame, and keeps it under `name`.
pub fn photograph(ctx: &Context, name: String) {
    let keep = move |image: std::sync::Arc<ColorImage>| match png(&image) {
        Ok(bytes) => log::info!("{}", platform::save(&name, &bytes)),
        Err(error) => log::error!("{name}: {error}"),
    };
    ctx.send_viewport_cmd(ViewportCommand::Screenshot(ScreenshotCallback::new(keep)));
    ctx.request_repaint();
}

/// An image as PNG.
///
/// # Errors
/// Those of the encoder.
pub fn png(image: &ColorImage) -> Result<Vec<u8>, png::EncodingError> {
    let [width, height] = image.size.map(|x| x as u32);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let rgb: Vec<u8> = image.pixels.iter().flat_map(|p| [p.r(), p.g(), p.b()]).collect();
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&rgb)?;
    writer.finish()?;
    Ok(bytes)
}

/// Losses of all steps, and held-out loss, mean similarity and dead experts where the models were looked at.
pub fn csv(state: &State) -> String {
    let mut text = String::from("step,loss_decoupled,loss_plain,held_out_decoupled,held_out_plain,");
    text.push_str("similarity_decoupled,similarity_unique,similarity_plain,dead_decoupled,dead_plain\n");
    let [on, off] = &state.losses;
    for (i, (on, off)) in on.iter().zip(off).enumerate() {
        let step = i as u64 + 1;
        let _ = write!(text, "{step},{on},{off}");
        match state.looks.iter().find(|looks| looks.step == step) {
            None => text.push_str(",,,,,,,"),
            Some(looks) => {
                let [on, off] = &looks.of;
                let dead = |look: &Look| look.counts.iter().flatten().filter(|&&c| c == 0).count();
                let _ = write!(
                    text,
                    ",{},{},{},{},{},{},{}",
                    on.held_out_loss,
                    off.held_out_loss,
                    similarity(on, step, |s| Some(&s.merged)),
                    similarity(on, step, |s| s.unique.as_ref()),
                    similarity(off, step, |s| Some(&s.merged)),
                    dead(on),
                    dead(off)
                );
            }
        }
        text.push('\n');
    }
    text
}

/// The mean over pairs of different experts, layers, matrices and sides; nothing where weights were measured at another step.
fn similarity(look: &Look, step: u64, table: impl Fn(&PairSimilarity) -> Option<&Vec<f32>>) -> String {
    let (mut sum, mut count) = (0.0, 0);
    let fresh = look.weights.similarity.iter().filter(|_| look.weights.step == step);
    for table in fresh.filter_map(table) {
        let n = table.len().isqrt();
        for (_, &x) in table.iter().enumerate().filter(|(i, _)| i / n != i % n) {
            (sum, count) = (sum + f64::from(x), count + 1);
        }
    }
    if count > 0 { (sum / f64::from(count)).to_string() } else { String::new() }
}
