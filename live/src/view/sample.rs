//! The texts that the models write.

use eframe::egui::{RichText, Ui};

use super::{Scene, card};
use crate::colour;

/// Draws the newest sample up to the step that is shown.
pub fn draw(ui: &mut Ui, scene: &Scene<'_>) {
    let says = "Both models go on from the same held-out words with the same draws; only the models change.";
    card(ui, "What they write", says, |ui| {
        let step = scene.looks.map_or(u64::MAX, |looks| looks.step);
        let Some(sample) = scene.state.samples.iter().rev().find(|s| s.step <= step) else {
            ui.label(RichText::new("after the first steps").weak());
            return;
        };
        ui.label(
            RichText::new(format!("step {}: {}…", sample.step, one_line(&sample.prompt))).small().color(colour::QUIET),
        );
        for (text, model) in sample.text.iter().zip([colour::DECOUPLED, colour::PLAIN]) {
            ui.label(RichText::new(one_line(text)).monospace().color(model));
        }
    });
}

/// Returns a text as one line: a sign for what cannot be drawn.
fn one_line(text: &[u8]) -> String {
    let shown = |c: char| match c {
        '\n' => '¶',
        c if c.is_control() || c == char::REPLACEMENT_CHARACTER => '▪',
        c => c,
    };
    String::from_utf8_lossy(text).chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_model_writes_is_one_line() {
        assert_eq!(one_line("für\nalle".as_bytes()), "für¶alle");
        assert_eq!(one_line(b"a\x00\xff\xc3b"), "a▪▪▪b");
    }
}
