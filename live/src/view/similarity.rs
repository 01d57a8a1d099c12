//! Similarity of the experts: merged beside their own parts.

use eframe::egui::{self, FontId, RichText, Sense, Ui};
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::train::metrics::Side;

use super::{Choice, Scene, card, show, waiting};
use crate::colour;

/// Draws the heat maps of the chosen layer, matrix and side.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>, choice: &mut Choice) {
    let says = "Overlap of the leading singular directions of each pair of experts, 0 to 1; the red mark on the scale is what \
                random directions give. Merged experts share W_c, so they are more alike than their own parts W_u.";
    card(ui, "How alike the experts are", says, |ui| {
        ui.horizontal(|ui| {
            for (i, matrix) in ExpertMatrix::ALL.into_iter().enumerate() {
                ui.selectable_value(&mut choice.matrix, i, matrix.name());
            }
            ui.separator();
            ui.selectable_value(&mut choice.model_side, false, "hidden side");
            ui.selectable_value(&mut choice.model_side, true, "model side");
            let step = scene.looks.map_or(0, |looks| looks.of[0].weights.step);
            if step > 0 {
                ui.label(RichText::new(format!("step {step}")).small().color(colour::QUIET));
            }
        });
        let Some(looks) = scene.looks else { return waiting(ui, 190.0) };
        let side = if choice.model_side { Side::Model } else { Side::Hidden };
        let number = scene.state.settings.run(true).model.moe_layers().get(choice.layer).copied();
        let of = |look: &crate::session::look::Look| {
            let wanted = |s: &&sdmoe::train::specialisation::PairSimilarity| {
                Some(s.layer) == number && s.matrix as usize == choice.matrix && s.side == side
            };
            look.weights.similarity.iter().find(wanted).cloned()
        };
        let [Some(on), Some(off)] = looks.of.each_ref().map(of) else { return waiting(ui, 190.0) };
        let maps =
            [("plain W", Some(&off.merged)), ("decoupled W", Some(&on.merged)), ("its own W_u", on.unique.as_ref())];
        let width = (ui.available_width() - 16.0) / 3.0;
        ui.horizontal(|ui| {
            for (name, table) in maps {
                ui.allocate_ui(egui::vec2(width, width + 36.0), |ui| {
                    ui.vertical(|ui| match table {
                        Some(table) => map(ui, name, table, width),
                        None => waiting(ui, width),
                    });
                });
            }
        });
        legend(ui, f64::from(on.chance));
    });
}

/// One heat map with its mean off the diagonal.
fn map(ui: &mut Ui, name: &str, table: &[f32], width: f32) {
    let n = table.len().isqrt();
    let pairs = (0..n * n).filter(|i| i / n != i % n).map(|i| f64::from(table[i]));
    let mean = pairs.sum::<f64>() / (n * (n - 1)).max(1) as f64;
    ui.label(RichText::new(format!("{name}: {mean:.2}")).small().strong());
    let cell = (width / n as f32).floor().max(2.0);
    let (rect, response) = ui.allocate_exact_size(egui::Vec2::splat(cell * n as f32), Sense::hover());
    let painter = ui.painter_at(rect);
    for (i, &x) in table.iter().enumerate() {
        let at = rect.min + egui::vec2((i % n) as f32 * cell, (i / n) as f32 * cell);
        let square = egui::Rect::from_min_size(at, egui::Vec2::splat(cell - 1.0));
        if i / n == i % n {
            painter.rect_filled(square, 0.0, ui.visuals().extreme_bg_color);
        } else {
            painter.rect_filled(square, 0.0, colour::scale(f64::from(x)));
        }
    }
    let hovered = response.hover_pos().map(|p| {
        let at = |x: f32| ((x / cell) as usize).min(n - 1);
        (at(p.y - rect.min.y), at(p.x - rect.min.x))
    });
    if let Some((a, b)) = hovered.filter(|(a, b)| a != b) {
        response.on_hover_text_at_pointer(format!("experts {a} and {b}: {}", show(f64::from(table[a * n + b]))));
    }
}

/// The scale from 0 to 1 with the mark of chance.
fn legend(ui: &mut Ui, chance: f64) {
    let (rect, _) = ui.allocate_exact_size(egui::vec2(ui.available_width(), 26.0), Sense::hover());
    let bar = egui::Rect::from_min_max(rect.min + egui::vec2(16.0, 2.0), rect.max - egui::vec2(16.0, 14.0));
    let painter = ui.painter();
    const STEPS: usize = 64;
    for i in 0..STEPS {
        let x = |i: usize| bar.left() + bar.width() * i as f32 / STEPS as f32;
        let part = egui::Rect::from_x_y_ranges(x(i)..=x(i + 1), bar.y_range());
        painter.rect_filled(part, 0.0, colour::scale(i as f64 / (STEPS - 1) as f64));
    }
    let (quiet, font) = (colour::QUIET, FontId::proportional(10.0));
    for (x, text) in [(0.0, "0"), (1.0, "1")] {
        let at = egui::pos2(bar.left() + bar.width() * x, bar.bottom());
        painter.text(at, egui::Align2::CENTER_TOP, text, font.clone(), quiet);
    }
    let x = bar.left() + bar.width() * chance.clamp(0.0, 1.0) as f32;
    painter.vline(x, bar.top() - 2.0..=bar.bottom() + 2.0, (2.0, colour::CHANCE));
    let text = format!("chance {}", show(chance));
    painter.text(egui::pos2(x + 8.0, bar.bottom()), egui::Align2::LEFT_TOP, text, font, colour::CHANCE);
}
