//! Spectra of the common and the own parts, gap, drift and refreshes.

use eframe::egui::{RichText, Ui};
use egui_plot::{Legend, Line, PlotPoints, VLine};

use super::losses::plot;
use super::{Choice, Scene, card, show, waiting};
use crate::colour;
use crate::settings::Variant;

/// Draws the spectra of the chosen layer and matrix, and drift and gap over the steps.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>, choice: &Choice) {
    let variant = match scene.state.settings.variant {
        Variant::Absorb => "absorb",
        Variant::Published => "as published",
    };
    let says = "Singular values of W_c and, as a mean over experts, of W_u; the line is rank k. Drift: the part of W_u in the \
                common directions, which is 0 where decoupling holds; the red line is what random matrices have.";
    card(ui, &format!("Common and own parts ({variant})"), says, |ui| {
        let number = scene.state.settings.run(true).model.moe_layers().get(choice.layer).copied();
        let wanted =
            |s: &&crate::session::look::Spectrum| Some(s.layer) == number && s.matrix as usize == choice.matrix;
        let Some(spectrum) = scene.looks.and_then(|looks| looks.of[0].weights.spectra.iter().find(wanted)) else {
            return waiting(ui, 150.0);
        };
        plot("spectrum", 90.0).legend(Legend::default()).include_y(0.0).show(ui, |plot| {
            for (name, values, hue) in
                [("W_c", &spectrum.common, colour::DECOUPLED), ("W_u", &spectrum.unique, colour::QUIET)]
            {
                let points: PlotPoints<'_> =
                    values.iter().enumerate().map(|(i, &s)| [(i + 1) as f64, f64::from(s)]).collect();
                plot.line(Line::new(name, points).color(hue).width(1.5));
            }
            plot.vline(VLine::new("k", scene.state.settings.rank as f64 + 0.5).color(colour::CHANCE));
        });
        let side = usize::from(!choice.model_side);
        let mut drift: Vec<[f64; 2]> = Vec::new();
        for weights in scene.state.looks.iter().map(|looks| &looks.of[0].weights) {
            let step = weights.step as f64;
            if let Some(found) =
                weights.spectra.iter().find(wanted).filter(|_| drift.last().is_none_or(|d| d[0] < step))
            {
                drift.push([step, found.drift[side]]);
            }
        }
        let chance = spectrum.drift_chance[side];
        let last = scene.state.losses[0].len() as u64;
        plot("drift", 60.0).include_y(0.0).include_y(1.05 * chance).show(ui, |plot| {
            let every = scene.state.refresh_every.max(1);
            // Where ticks would run into each other, only the last are drawn.
            for refresh in (1..=last / every).rev().take(24) {
                plot.vline(VLine::new("refresh", (refresh * every) as f64).color(colour::QUIET.gamma_multiply(0.35)));
            }
            plot.hline(egui_plot::HLine::new("chance", chance).color(colour::CHANCE));
            plot.line(Line::new("drift", PlotPoints::from(drift)).color(colour::DECOUPLED).width(1.5));
        });
        ui.horizontal_wrapped(|ui| {
            let gap = spectrum.gap.map_or("none yet".to_owned(), |gap| format!("{gap:.1}"));
            let angle = spectrum.angle.map_or("none yet".to_owned(), |a| format!("{:.1}°", a.to_degrees()));
            ui.label(format!("gap σ_k/σ_k+1 {gap}, bases turned by {angle}, drift {}", show(spectrum.drift[side])));
            ui.label(RichText::new(format!("chance {}", show(chance))).color(colour::CHANCE));
        });
    });
}
