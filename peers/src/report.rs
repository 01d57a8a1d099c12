//! The figures as a table and as JSON.

use serde_json::{Value, json};

use crate::library::Library;
use crate::measure::{Checked, Figures, quantile};

const LOCK: &str = include_str!("../Cargo.lock");

/// The version of a crate that was built.
fn version(crate_name: &str) -> &str {
    let entry = LOCK.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{crate_name}\"\n")));
    entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next()).unwrap_or("?")
}

/// One line a library: its version, and the adapter that it has opened.
pub fn header(libraries: &[Box<dyn Library>]) -> String {
    let mut lines = String::new();
    for library in libraries {
        let name = format!("{} {}", library.name(), version(library.name()));
        lines += &format!("{name:18} {}\n", library.adapter());
    }
    lines
}

pub fn heads() -> String {
    format!(
        "{:30} {:10} {:>10} {:>10} {:>7} {:>9} {:>6} {:>11}  {}",
        "case", "library", "median ms", "best ms", "spread", "GFLOP/s", "ratio", "best ratio", "error or losses"
    )
}

impl Figures {
    fn median(&self) -> f64 {
        quantile(&self.times, 0.5)
    }

    fn best(&self) -> f64 {
        self.times.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// 10 % to 90 % of the rounds over the median.
    fn spread(&self) -> f64 {
        (quantile(&self.times, 0.9) - quantile(&self.times, 0.1)) / self.median()
    }

    fn gflops(&self) -> Option<f64> {
        self.flop.map(|flop| flop / self.median() / 1e9)
    }

    /// A line of the table. `first` has the figures of the first library for this case.
    pub fn line(&self, first: &Figures) -> String {
        let checked = match self.checked {
            Checked::Error(error) => format!("{error:.1e}"),
            Checked::Losses(before, after) => format!("{before:.3} to {after:.3}"),
        };
        format!(
            "{:30} {:10} {:>10.2} {:>10.2} {:>7.2} {:>9} {:>6.2} {:>11.2}  {checked}",
            self.case,
            self.library,
            1e3 * self.median(),
            1e3 * self.best(),
            self.spread(),
            self.gflops().map_or_else(String::new, |rate| format!("{rate:.1}")),
            quantile(&self.ratios, 0.5),
            self.best() / first.best(),
        )
    }

    fn json(&self) -> Value {
        let (error, losses) = match self.checked {
            Checked::Error(error) => (Some(error), None),
            Checked::Losses(before, after) => (None, Some([before, after])),
        };
        json!({
            "case": self.case, "library": self.library, "version": version(self.library),
            "median_ms": 1e3 * self.median(), "best_ms": 1e3 * self.best(), "spread": self.spread(),
            "gflops": self.gflops(), "ratio": quantile(&self.ratios, 0.5), "rounds": self.times.len(),
            "times_ms": self.times.iter().map(|time| 1e3 * time).collect::<Vec<_>>(),
            "error": error, "losses": losses,
        })
    }
}

/// All figures, with the adapter of each library.
pub fn json(libraries: &[Box<dyn Library>], all: &[Figures]) -> Value {
    let opened = libraries.iter().map(|library| (library.name().to_owned(), json!(library.adapter()))).collect();
    json!({ "adapters": Value::Object(opened), "figures": all.iter().map(Figures::json).collect::<Vec<_>>() })
}
