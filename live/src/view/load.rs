//! Load bars, dead experts, and the slider of the balance loss.

use eframe::egui::{self, FontId, RichText, Sense, Slider, SliderClamping, Ui};

use super::{Choice, Scene, card, waiting};
use crate::colour;

/// Draws the bars; returns the weight of the balance loss where it was moved.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>, choice: &Choice, weight: &mut f32) -> Option<f32> {
    let says = "Tokens of each expert in the last step, for each expert the plain model's bar beside the decoupled one's; \
                the line is the even load. A cross marks an expert without a token.";
    let mut moved = None;
    card(ui, &format!("Load: layer {}", choice.layer), says, |ui| {
        match scene.looks {
            None => waiting(ui, 90.0),
            Some(looks) => {
                let counts = looks.of.each_ref().map(|look| look.counts.get(choice.layer).cloned().unwrap_or_default());
                bars(ui, &counts, 90.0);
            }
        }
        ui.horizontal(|ui| {
            ui.label(RichText::new("balance loss").small());
            let slider = Slider::new(weight, 0.0..=0.1).logarithmic(true).smallest_positive(1e-4);
            // What a link says is only changed by hand.
            let slider = slider.clamping(SliderClamping::Edits);
            if ui.add(slider).changed() {
                moved = Some(*weight);
            }
        });
        let note = "At 0 nothing keeps the load even; turned up, experts come back.";
        ui.label(RichText::new(note).small().color(colour::QUIET));
    });
    moved
}

fn bars(ui: &mut Ui, [on, off]: &[Vec<u32>; 2], height: f32) {
    let experts = on.len().max(1);
    let (rect, response) = ui.allocate_exact_size(egui::vec2(ui.available_width(), height), Sense::hover());
    let painter = ui.painter_at(rect);
    let total = on.iter().sum::<u32>().max(1) as f32;
    let most = on.iter().chain(off).copied().max().unwrap_or(1) as f32;
    let top = most.max(2.0 * total / experts as f32);
    let base = rect.bottom() - 14.0;
    let y = |count: f32| base - (height - 18.0) * count / top;
    let width = rect.width() / experts as f32;
    for expert in 0..experts {
        let left = rect.left() + width * expert as f32;
        for (i, (counts, model)) in [(off, colour::PLAIN), (on, colour::DECOUPLED)].into_iter().enumerate() {
            let count = counts.get(expert).copied().unwrap_or(0);
            let (from, to) = (left + width * (0.12 + 0.38 * i as f32), left + width * (0.48 + 0.38 * i as f32));
            if count == 0 {
                let cross =
                    egui::Rect::from_center_size(egui::pos2(0.5 * (from + to), base - 6.0), egui::Vec2::splat(7.0));
                painter.line_segment([cross.left_top(), cross.right_bottom()], (2.0, colour::CHANCE));
                painter.line_segment([cross.right_top(), cross.left_bottom()], (2.0, colour::CHANCE));
            } else {
                let bar = egui::Rect::from_x_y_ranges(from..=to, y(count as f32)..=base);
                painter.rect_filled(bar, 1.0, model);
            }
        }
        let at = egui::pos2(left + 0.5 * width, rect.bottom());
        let hue = colour::expert(expert, experts);
        painter.text(at, egui::Align2::CENTER_BOTTOM, expert.to_string(), FontId::proportional(11.0), hue);
    }
    let even = y(total / experts as f32);
    painter.hline(rect.x_range(), even, (1.0, colour::CHANCE));
    if let Some(p) = response.hover_pos() {
        let expert = (((p.x - rect.left()) / width) as usize).min(experts - 1);
        let of = |counts: &[u32]| counts.get(expert).copied().unwrap_or(0);
        response.on_hover_text_at_pointer(format!(
            "expert {expert}: {} tokens decoupled, {} plain; even: {:.0}",
            of(on),
            of(off),
            total / experts as f32
        ));
    }
}
