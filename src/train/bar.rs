//! The bar of a run on a terminal. Without the feature `cli` there is none, and what is here does nothing.

pub(super) use shown::Bar;

#[cfg(feature = "cli")]
mod shown {
    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

    const TEMPLATE: &str = "{bar:30} {pos}/{len} {msg} {eta} left";

    /// A handle to the bar; clones are of the same bar.
    #[derive(Clone, Debug)]
    pub(in crate::train) struct Bar(ProgressBar);

    impl Bar {
        /// For a run that has done `first` of its `steps` steps; one that is hidden draws nothing.
        pub(in crate::train) fn start(hidden: bool, first: u64, steps: u64) -> Self {
            let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
            let bar = ProgressBar::with_draw_target(Some(steps), target);
            // The template is a constant that the tests show to be valid; the default style is the worst that can happen.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            bar.set_position(first);
            bar.reset_eta();
            Self(bar)
        }

        /// Shows that `step` is done, and `message` beside it.
        pub(in crate::train) fn set(&self, step: u64, message: String) {
            self.0.set_message(message);
            self.0.set_position(step);
        }

        /// Does `work` while the bar is taken away.
        pub(in crate::train) fn suspend(&self, work: impl FnOnce()) {
            self.0.suspend(work);
        }

        /// Removes the bar.
        pub(in crate::train) fn finish(&self) {
            self.0.finish_and_clear();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_template_is_valid() {
            assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
            let bar = Bar::start(true, 3, 10);
            bar.set(4, "loss 1.000".to_owned());
            assert_eq!(bar.0.position(), 4);
            bar.finish();
        }
    }
}

#[cfg(not(feature = "cli"))]
mod shown {
    /// No bar.
    #[derive(Clone, Debug)]
    pub(in crate::train) struct Bar;

    impl Bar {
        pub(in crate::train) fn start(_hidden: bool, _first: u64, _steps: u64) -> Self {
            Self
        }

        pub(in crate::train) fn set(&self, _step: u64, _message: String) {}

        pub(in crate::train) fn suspend(&self, work: impl FnOnce()) {
            work();
        }

        pub(in crate::train) fn finish(&self) {}
    }
}
