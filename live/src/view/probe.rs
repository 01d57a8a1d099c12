//! The probe text, each byte coloured by its top expert.

use eframe::egui::{self, Color32, FontId, RichText, Sense, Ui};

use super::{Choice, Scene, card, waiting};
use crate::colour;
use crate::settings::SEQ;

/// Draws the text of each source.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>, choice: &Choice) {
    let says = "Held-out text by top expert; strong colour: large share of the byte's weight. \
                By chance colours would be speckled at random. Hover a byte for all scores and the guess for the next.";
    card(ui, &format!("Who reads what: layer {}, {} model", choice.layer, choice.model()), says, |ui| {
        let Some(looks) = scene.looks else { return waiting(ui, 150.0) };
        let look = choice.look(looks);
        let Some(layer) = look.probe.get(choice.layer) else { return };
        let readings = &scene.state.readings;
        let experts = scene.state.settings.experts;
        let cell = egui::vec2(9.0, 17.0);
        let columns = ((ui.available_width() / cell.x) as usize).clamp(8, SEQ);
        for (window, name) in readings.names.iter().enumerate() {
            ui.label(RichText::new(name).small().color(colour::QUIET));
            let text = &readings.probe[window * SEQ..][..SEQ];
            let rows = SEQ.div_ceil(columns);
            let size = egui::vec2(columns as f32 * cell.x, rows as f32 * cell.y);
            let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
            let painter = ui.painter_at(rect);
            for (i, &byte) in text.iter().enumerate() {
                let (expert, share) = layer.top[window * SEQ + i];
                let at = rect.min + egui::vec2((i % columns) as f32 * cell.x, (i / columns) as f32 * cell.y);
                let hue = colour::expert(expert as usize, experts);
                let strength = ((share - 1.0 / experts as f32) * 1.2).clamp(0.12, 1.0);
                let fill = ui.visuals().faint_bg_color.lerp_to_gamma(hue, strength);
                painter.rect_filled(egui::Rect::from_min_size(at, cell), 0.0, fill);
                let font = FontId::monospace(12.0);
                painter.text(at + cell * 0.5, egui::Align2::CENTER_CENTER, character(byte), font, colour::on(fill));
            }
            let hovered = response.hover_pos().and_then(|p| {
                let (x, y) = ((p.x - rect.min.x) / cell.x, (p.y - rect.min.y) / cell.y);
                let i = y as usize * columns + (x as usize).min(columns - 1);
                (i < SEQ).then_some(window * SEQ + i)
            });
            if let Some(token) = hovered {
                response.on_hover_ui_at_pointer(|ui| {
                    let (guess, sure) = look.guesses[token];
                    let next = readings.probe.get(token + 1).filter(|_| (token + 1) % SEQ != 0);
                    let next = next.map_or(String::new(), |b| format!(", it is `{}`", character(*b)));
                    ui.label(format!("next byte: `{}` with {:.0} %{next}", character(guess), 100.0 * sure));
                    scores(ui, &layer.scores[token * experts..][..experts]);
                });
            }
        }
        ui.horizontal_wrapped(|ui| {
            for expert in 0..experts {
                super::legend(ui, colour::expert(expert, experts), &expert.to_string());
            }
        });
    });
}

fn scores(ui: &mut Ui, scores: &[f32]) {
    for (expert, &score) in scores.iter().enumerate() {
        ui.horizontal(|ui| {
            let (rect, _) = ui.allocate_exact_size(egui::vec2(90.0, 10.0), Sense::hover());
            let bar = egui::Rect::from_min_size(rect.min, egui::vec2(90.0 * score, 10.0));
            ui.painter().rect_filled(rect, 1.0, Color32::from_gray(50));
            ui.painter().rect_filled(bar, 1.0, colour::expert(expert, scores.len()));
            ui.label(RichText::new(format!("{expert}: {score:.3}")).small());
        });
    }
}

/// Returns one character for a byte, also where it is none or a part of one.
pub fn character(byte: u8) -> char {
    match byte {
        b' ' => '·',
        b'\n' => '¶',
        b'!'..=b'~' => byte as char,
        _ => '▪',
    }
}
