//! Which source goes to which expert.

use eframe::egui::{self, FontId, RichText, Sense, Ui};

use super::{Choice, Scene, card, show, waiting};
use crate::colour;

/// Draws the table of sources and experts.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>, choice: &Choice) {
    let says = "Share of a text's choices that go to each expert, on held-out text. The mutual information of text and \
                expert says how much an expert is one text's: 0 is none, and the control has the texts permuted.";
    card(ui, &format!("Which text goes where: layer {}, {} model", choice.layer, choice.model()), says, |ui| {
        let Some(looks) = scene.looks else { return waiting(ui, 80.0) };
        let Some(found) = choice.look(looks).by_source.get(choice.layer) else { return };
        let experts = scene.state.settings.experts;
        let (name_width, height) = (58.0, 20.0);
        let rows = found.shares.len();
        let size = egui::vec2(ui.available_width(), height * (rows + 1) as f32);
        let (rect, _) = ui.allocate_exact_size(size, Sense::hover());
        let painter = ui.painter_at(rect);
        let width = (rect.width() - name_width) / experts as f32;
        let even = 1.0 / experts as f64;
        let font = FontId::proportional(11.0);
        for (row, shares) in found.shares.iter().enumerate() {
            let y = rect.top() + height * row as f32;
            let name = scene.state.readings.names.get(row).map_or("", String::as_str);
            let at = egui::pos2(rect.left(), y + 0.5 * height);
            painter.text(at, egui::Align2::LEFT_CENTER, shortened(name), font.clone(), ui.visuals().text_color());
            for (expert, &share) in shares.iter().enumerate() {
                let min = egui::pos2(rect.left() + name_width + width * expert as f32, y);
                let cell = egui::Rect::from_min_size(min, egui::vec2(width - 1.0, height - 1.0));
                // Bright is three times the even share.
                let fill = colour::scale(share / even / 3.0);
                painter.rect_filled(cell, 1.0, fill);
                if width > 24.0 {
                    let text = format!("{:.0}%", 100.0 * share);
                    painter.text(cell.center(), egui::Align2::CENTER_CENTER, text, font.clone(), colour::on(fill));
                }
            }
        }
        for expert in 0..experts {
            let at = egui::pos2(rect.left() + name_width + width * (expert as f32 + 0.5), rect.bottom());
            let hue = colour::expert(expert, experts);
            painter.text(at, egui::Align2::CENTER_BOTTOM, expert.to_string(), font.clone(), hue);
        }
        if let (Some(information), Some(chance)) = (found.information, found.chance) {
            ui.horizontal_wrapped(|ui| {
                ui.label(format!("mutual information {} nats", show(information)));
                ui.label(RichText::new(format!("chance {}", show(chance))).color(colour::CHANCE));
            });
        }
    });
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= 9 { name.to_owned() } else { name.chars().take(8).chain(['…']).collect() }
}
