//! Both losses, and their difference.

use eframe::egui::Ui;
use egui_plot::{HLine, Legend, Line, Plot, PlotPoints};

use super::{Scene, card, show};
use crate::colour;

/// Points of a curve at most.
const POINTS: usize = 600;

/// Draws the curves.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>) {
    let [on, off] = &scene.state.losses;
    let both = on.len().min(off.len());
    let says = "Training loss, nats per byte, of two models from one seed on the same batches; guessing evenly costs 5.55. \
                Below: decoupled less plain, mean of 32 steps; 0 is what chance gives.";
    card(ui, "Loss, with decoupling and without", says, |ui| {
        let curves = [("decoupled", on, colour::DECOUPLED), ("plain", off, colour::PLAIN)];
        plot("losses", 140.0).legend(Legend::default()).show(ui, |plot| {
            for (name, losses, colour) in curves {
                plot.line(Line::new(name, points(&smooth(losses, 8))).color(colour).width(1.5));
            }
        });
        let difference: Vec<f32> = on[..both].iter().zip(&off[..both]).map(|(a, b)| a - b).collect();
        plot("difference", 70.0).include_y(-0.05).include_y(0.05).show(ui, |plot| {
            plot.hline(HLine::new("chance", 0.0).color(colour::CHANCE));
            plot.line(Line::new("difference", points(&smooth(&difference, 32))).color(colour::DECOUPLED).width(1.5));
        });
        let held = scene.looks.map(|looks| looks.of.each_ref().map(|look| look.held_out_loss));
        if let (Some([on, off]), Some(looks)) = (held, scene.looks) {
            ui.label(format!(
                "held out at step {}: decoupled {}, plain {}",
                looks.step,
                show(f64::from(on)),
                show(f64::from(off))
            ));
        }
    });
}

/// A plot as all of them are.
pub fn plot(name: &'static str, height: f32) -> Plot<'static> {
    Plot::new(name).height(height).allow_scroll(false).allow_drag(false).allow_zoom(false).allow_boxed_zoom(false)
}

/// The mean of each value and those before it, `over` in all.
fn smooth(values: &[f32], over: usize) -> Vec<f32> {
    let mut sum = 0.0;
    let mean = |(i, &x): (usize, &f32)| {
        sum += f64::from(x);
        if i >= over {
            sum -= f64::from(values[i - over]);
        }
        (sum / (i + 1).min(over) as f64) as f32
    };
    values.iter().enumerate().map(mean).collect()
}

/// The curve of values by step from 1, thinned.
fn points(values: &[f32]) -> PlotPoints<'static> {
    let every = values.len().div_ceil(POINTS).max(1);
    let last = values.len().saturating_sub(1);
    let kept = values.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last);
    kept.map(|(i, &x)| [(i + 1) as f64, f64::from(x)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smoothed_curve_is_the_mean_of_what_was_before() {
        assert_eq!(smooth(&[1.0, 3.0, 5.0, 7.0], 2), [1.0, 2.0, 4.0, 6.0]);
        assert!(smooth(&[], 3).is_empty());
    }
}
