//! The display of an analysis that goes on: a bar over the matrices on a terminal, else a line for each part.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::analysis::whole::Event;
use crate::train::progress::{Display, plain, say};

const TEMPLATE: &str = "{bar:30} {pos}/{len} matrices  {msg}  {eta} left";

/// Shows how far an analysis is, on standard error.
pub(super) struct AnalysisBar {
    display: Display,
    bar: ProgressBar,
    name: String,
}

impl AnalysisBar {
    /// For `matrices` matrices of the target `name`.
    pub(super) fn start(display: Display, matrices: usize, name: &str) -> Self {
        let target = if display == Display::Bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(matrices as u64), target);
        // The template is a constant that a test shows to be valid; the default style is the worst that can happen.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        Self { display, bar, name: plain(name).into_owned() }
    }

    /// Shows a step forward.
    pub(super) fn hear(&self, event: Event<'_>) {
        match event {
            Event::Matrices(count) => self.bar.inc(count as u64),
            Event::Begin(what) => {
                self.bar.set_message(format!("{}: {what}", self.name));
                if self.display == Display::Lines {
                    say(&format!("{}: {what}", self.name));
                }
            }
        }
    }
}

impl Drop for AnalysisBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_and_matrices_count() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        let bar = AnalysisBar::start(Display::Quiet, 10, "x");
        bar.hear(Event::Matrices(3));
        bar.hear(Event::Begin("layer 0"));
        assert_eq!(bar.bar.position(), 3);
    }
}
