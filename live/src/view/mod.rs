//! The charts. Each is a function of what was found and of what is chosen; none knows of the session.

pub mod experts;
pub mod load;
pub mod losses;
pub mod probe;
pub mod sample;
pub mod similarity;
pub mod sources;
pub mod spectrum;

use eframe::egui::{self, Color32, Frame, Margin, RichText, Ui};

use crate::colour;
use crate::session::look::Look;
use crate::session::{Looks, State};

/// The choices for all charts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Whether charts of one model show the decoupled one.
    pub decoupled: bool,
    /// The layer, counted among those with experts.
    pub layer: usize,
    /// The matrix kind of similarity and spectrum, an index of `ExpertMatrix::ALL`.
    pub matrix: usize,
    /// Whether similarity is that of the model side, or of the hidden side.
    pub model_side: bool,
    /// The expert that is tried.
    pub expert: usize,
}

impl Default for Choice {
    fn default() -> Self {
        Self { decoupled: true, layer: 0, matrix: 0, model_side: false, expert: 0 }
    }
}

impl Choice {
    /// The look at the chosen model.
    pub fn look<'a>(&self, looks: &'a Looks) -> &'a Look {
        &looks.of[usize::from(!self.decoupled)]
    }

    /// The chosen model in words.
    pub fn model(&self) -> &'static str {
        if self.decoupled { "decoupled" } else { "plain" }
    }
}

/// The sources of the charts.
pub struct Scene<'a> {
    /// Everything so far.
    pub state: &'a State,
    /// The looks that are shown: the newest, or an older one.
    pub looks: Option<&'a Looks>,
}

/// A chart in its frame: a heading, what it shows and what chance would give, and the chart.
pub fn card(ui: &mut Ui, heading: &str, says: &str, chart: impl FnOnce(&mut Ui)) {
    let frame = Frame::new()
        .fill(ui.visuals().faint_bg_color)
        .corner_radius(6)
        .inner_margin(Margin::symmetric(10, 7))
        .outer_margin(Margin { left: 0, right: 0, top: 0, bottom: 8 });
    let left = egui::Layout::top_down(egui::Align::LEFT);
    frame.show(ui, |ui| {
        ui.set_width(ui.available_width());
        ui.with_layout(left, |ui| {
            ui.label(RichText::new(heading).strong());
            ui.label(RichText::new(says).small().color(colour::QUIET));
            ui.add_space(2.0);
            chart(ui);
        });
    });
}

/// Says that there is nothing to show yet.
pub fn waiting(ui: &mut Ui, height: f32) {
    ui.allocate_ui(egui::vec2(ui.available_width(), height), |ui| {
        ui.centered_and_justified(|ui| ui.label(RichText::new("after the first steps").weak()));
    });
}

/// A square of one colour with a word behind it.
pub fn legend(ui: &mut Ui, colour: Color32, word: &str) {
    let (rect, _) = ui.allocate_exact_size(egui::vec2(10.0, 10.0), egui::Sense::hover());
    ui.painter().rect_filled(rect, 2.0, colour);
    ui.label(RichText::new(word).small());
}

/// A number in a chart's text: three digits.
pub fn show(x: f64) -> String {
    if x != 0.0 && x.abs() < 0.01 { format!("{x:.1e}") } else { format!("{x:.3}") }
}
