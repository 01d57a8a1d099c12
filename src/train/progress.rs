//! The progress of a run, for a person: a bar on a terminal, else a line every tenth of the way.

use std::borrow::Cow;
use std::io::Write;
use std::time::{Duration, Instant};

use super::bar::Bar;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// Nothing.
    Quiet,
    /// A line every tenth of the way, for files and pipes.
    Lines,
    /// A bar that redraws itself; without the feature `cli`, which has it, the lines.
    Bar,
}

/// Prints a line on standard error, control characters as their code. Nobody may be listening there any more
/// (`sdmoe train 2>&1 | head`), and training goes on.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(line));
}

/// `text` on one line that does nothing to a terminal: names of files and tensors may hold anything.
pub fn plain(text: &str) -> Cow<'_, str> {
    without_controls(text, &[])
}

/// `text` with control characters, but those in `kept`, and those that turn the direction of writing as `\u{1b}`.
pub fn without_controls<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let acts = |c: char| (c.is_control() || turns(c)) && !kept.contains(&c);
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    for c in text.chars() {
        if acts(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Shows step, loss, tokens per second and the time left, on standard error.
#[derive(Debug)]
pub struct Progress {
    display: Display,
    bar: Bar,
    first: u64,
    steps: u64,
    started: Instant,
}

impl Progress {
    /// For a run that has done `first` of its `steps` steps.
    pub fn start(display: Display, first: u64, steps: u64) -> Self {
        let display = if display == Display::Bar && !cfg!(feature = "cli") { Display::Lines } else { display };
        let bar = Bar::start(display != Display::Bar, first, steps);
        Self { display, bar, first, steps, started: Instant::now() }
    }

    /// Shows that `step` is done.
    pub fn step(&self, step: u64, loss: f32, tokens_per_second: Option<f64>) {
        let rate = tokens_per_second.map_or(String::new(), |rate| format!("  {rate:.0} tokens/s"));
        let message = format!("loss {loss:.3}{rate}");
        if self.display == Display::Lines && tenth(step, self.steps) {
            let left =
                time_left(self.started.elapsed(), step.saturating_sub(self.first), self.steps.saturating_sub(step));
            say(&format!("step {step}/{}  {message}  {left} left", self.steps));
        }
        self.bar.set(step, message);
    }

    /// Shows a line of its own, above the bar.
    pub fn line(&self, text: &str) {
        line(self.display, &self.bar, text);
    }

    /// Does what [`Progress::line`] does, from wherever it is called.
    pub fn liner(&self) -> impl Fn(&str) + Send + 'static {
        let (display, bar) = (self.display, self.bar.clone());
        move |text| line(display, &bar, text)
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish();
    }
}

fn line(display: Display, bar: &Bar, text: &str) {
    match display {
        Display::Quiet => {}
        Display::Lines => say(text),
        Display::Bar => bar.suspend(|| say(text)),
    }
}

/// Whether `step` is the first one, or the first one of another tenth of `steps`.
fn tenth(step: u64, steps: u64) -> bool {
    let part = |s: u64| u128::from(s) * 10 / u128::from(steps.max(1));
    step <= 1 || part(step) != part(step - 1)
}

fn time_left(elapsed: Duration, done: u64, left: u64) -> String {
    let seconds = (elapsed.as_secs_f64() * left as f64 / done.max(1) as f64).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}h{minutes:02}m") } else { format!("{minutes}m{seconds:02}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_a_line_every_tenth() {
        let steps: Vec<u64> = (1..=300).filter(|s| tenth(*s, 300)).collect();
        assert_eq!(steps, [1, 30, 60, 90, 120, 150, 180, 210, 240, 270, 300]);
        assert_eq!((1..=3).filter(|s| tenth(*s, 3)).count(), 3);
    }

    #[test]
    fn the_time_left_is_in_proportion() {
        assert_eq!(time_left(Duration::from_secs(60), 100, 200), "2m00s");
        assert_eq!(time_left(Duration::from_secs(60), 1, 100), "1h40m");
        assert_eq!(time_left(Duration::ZERO, 0, 0), "0m00s");
    }

    #[test]
    fn names_do_nothing_to_a_terminal() {
        assert_eq!(
            plain("a\x1b[2J\r\n\u{9b}\u{202e}b\u{7f}\t\u{e9}"),
            "a\\u{1b}[2J\\u{d}\\u{a}\\u{9b}\\u{202e}b\\u{7f}\\u{9}\u{e9}"
        );
        assert_eq!(without_controls("a\n\tb\0", &['\n', '\t']), "a\n\tb\\u{0}");
        assert!(matches!(plain("plain"), Cow::Borrowed("plain")));
    }
}
