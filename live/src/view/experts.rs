//! The loss of a model without an expert.

use eframe::egui::{self, RichText, Ui};

use super::{Choice, Scene, card, show};
use crate::colour;
use crate::session::trial::{Kind, Outcome};

/// Trials that are listed.
const LISTED: usize = 4;

/// Draws the buttons and the last trials; returns what is wanted.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>, choice: &mut Choice) -> Option<Kind> {
    let says = "Held-out loss with an expert switched off, or merged with the one whose Jacobian is most like its own; \
                beside it the same with one picked at random. The model stays as it is.";
    let mut wanted = None;
    card(ui, &format!("Without an expert: layer {}, {} model", choice.layer, choice.model()), says, |ui| {
        ui.horizontal_wrapped(|ui| {
            for expert in 0..scene.state.settings.experts {
                let hue = colour::expert(expert, scene.state.settings.experts);
                let text = RichText::new(expert.to_string()).color(hue);
                ui.selectable_value(&mut choice.expert, expert, text);
            }
            let settings = &scene.state.settings;
            let spare = egui::Button::new("switch off");
            let spare = ui.add_enabled(settings.experts > settings.top_k, spare);
            if spare.on_disabled_hover_text("a token visits every expert").clicked() {
                wanted = Some(Kind::Off);
            }
            if ui.button("merge").clicked() {
                wanted = Some(Kind::Merge);
            }
        });
        if !scene.state.message.is_empty() {
            ui.label(RichText::new(&scene.state.message).color(colour::CHANCE));
        }
        for outcome in scene.state.outcomes.iter().rev().take(LISTED) {
            line(ui, outcome);
        }
    });
    wanted
}

fn line(ui: &mut Ui, outcome: &Outcome) {
    let Outcome { kind, decoupled, layer, expert, partner, step, before, after, random } = outcome;
    let rise = |after: f32| format!("{:+.4}", after - before);
    let model = if *decoupled { "decoupled" } else { "plain" };
    let what = match (kind, partner) {
        (Kind::Off, _) | (Kind::Merge, None) => format!("without {expert}"),
        (Kind::Merge, Some((other, alignment))) => format!("{expert} + {other} (alignment {alignment:.2})"),
    };
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(format!("step {step}, {model}, layer {layer}:")).small().color(colour::QUIET));
        ui.label(format!("{what}: {}, then {} ({})", show(f64::from(*before)), show(f64::from(*after)), rise(*after)));
        if let Some((other, after)) = random {
            ui.label(RichText::new(format!("random {other}: {}", rise(*after))).color(colour::CHANCE));
        }
    });
}
