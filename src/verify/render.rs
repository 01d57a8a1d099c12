//! A report as Markdown, for a bug report, and as JUnit's XML, for a CI system; events as lines for a person who waits.

use std::fmt::Write;

use super::Event;
use super::header::Host;
use super::report::{AdapterResult, CaseReport, Outcome, Report};

/// Replaces what a table cell must not hold.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// The report as Markdown: header, a table of the groups, every case that did not pass.
pub fn markdown(report: &Report) -> String {
    let mut text = format!(
        "# sdmoe verify\n\nlevel {}, seed {}: **{}**\n",
        report.level.name(),
        report.seed,
        cell(&report.summary())
    );
    for adapter in &report.adapters {
        let _ = write!(text, "\n## {}\n\n| | |\n|---|---|\n", cell(&adapter.header.title()));
        for (name, value) in adapter.header.lines(&report.host) {
            let _ = writeln!(text, "| {name} | {} |", cell(&value));
        }
        let (head, rule) = match &adapter.reference {
            Some(other) => {
                let _ = writeln!(text, "| reference | {} |", cell(other));
                (" differs from the reference by |", "---|")
            }
            None => ("", ""),
        };
        let _ = writeln!(
            text,
            "\n| cases | kernels | passed | failed | known | not run | worst, of its tolerance | seconds |{head}\n\
             |---|---|---|---|---|---|---|---|{rule}"
        );
        for group in groups(adapter) {
            let line = Totals::of(group);
            let share = line.share.map_or(String::new(), |share| format!("{share:.3}"));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {share} | {:.2} |{}",
                group[0].group(),
                group[0].variant,
                line.passed,
                line.failed,
                line.known,
                line.not_run,
                line.seconds,
                if adapter.reference.is_some() { format!(" {} |", line.difference()) } else { String::new() }
            );
        }
        let told = adapter.cases.iter().filter_map(|case| Some((case, why(case)?)));
        let told: Vec<String> = told
            .map(|(case, why)| {
                let there = beside(case).map_or(String::new(), |there| format!("; {there}"));
                format!(
                    "- {}: `{}` ({}): {}{}\n",
                    case.outcome.name(),
                    case.name,
                    case.variant,
                    cell(&why),
                    cell(&there)
                )
            })
            .collect();
        if !told.is_empty() {
            let _ = write!(text, "\n{}", told.concat());
        }
        let notes: Vec<String> = adapter
            .cases
            .iter()
            .flat_map(|case| {
                case.notes.iter().map(move |note| format!("- `{}` ({}): {}\n", case.name, case.variant, cell(note)))
            })
            .collect();
        if !notes.is_empty() {
            let _ = write!(text, "\nNotes:\n\n{}", notes.concat());
        }
    }
    text
}

/// Why a case did not pass.
pub(super) fn why(case: &CaseReport) -> Option<String> {
    match &case.outcome {
        Outcome::Passed => None,
        Outcome::Failed { message } => Some(message.clone()),
        Outcome::KnownFailure { message, reason } => Some(format!("{message}; {reason}")),
        Outcome::NotRun { reason } => Some(reason.clone()),
    }
}

/// The outcome on the reference of a case that failed there or here.
pub fn beside(case: &CaseReport) -> Option<String> {
    let there = &case.reference.as_ref()?.outcome;
    let fails = |outcome: &Outcome| matches!(outcome, Outcome::Failed { .. } | Outcome::KnownFailure { .. });
    (fails(there) || fails(&case.outcome)).then(|| match there {
        Outcome::Failed { message } => format!("on the reference: failed: {message}"),
        other => format!("on the reference: {}", other.name()),
    })
}

/// The cases by group and variant, which follow each other.
fn groups(adapter: &AdapterResult) -> impl Iterator<Item = &[CaseReport]> {
    adapter.cases.chunk_by(|a, b| a.group() == b.group() && a.variant == b.variant)
}

/// The sums over the cases of a group.
struct Totals {
    passed: usize,
    failed: usize,
    known: usize,
    not_run: usize,
    share: Option<f64>,
    seconds: f64,
    /// The largest difference from the reference, of the cases that were compared, and how many elements have other bits.
    difference: Option<(f64, usize)>,
}

impl Totals {
    fn of(cases: &[CaseReport]) -> Self {
        let count = |name| cases.iter().filter(|case| case.outcome.name() == name).count();
        Self {
            passed: count("passed"),
            failed: count("failed"),
            known: count("known failure"),
            not_run: count("not run"),
            share: cases.iter().filter_map(|case| case.share_of_tolerance).reduce(f64::max),
            seconds: cases.iter().map(|case| case.seconds).sum(),
            difference: cases
                .iter()
                .filter_map(|case| case.reference.as_ref()?.difference)
                .map(|difference| (difference.largest, difference.elements))
                .reduce(|(a, m), (b, n)| (a.max(b), m + n)),
        }
    }

    /// The difference in words; nothing where nothing was compared.
    fn difference(&self) -> String {
        match self.difference {
            None => String::new(),
            Some((_, 0)) => "0".into(),
            Some((largest, _)) => format!("{largest:.1e}"),
        }
    }
}

/// A group's line for a terminal.
pub fn line(cases: &[CaseReport]) -> String {
    let Some(first) = cases.first() else { return String::new() };
    let totals = Totals::of(cases);
    let share = totals.share.map_or(String::new(), |share| format!("{share:.3} of its tolerance"));
    let mut text = format!("{:<12} {:<24} {:>4} passed", first.variant, first.group(), totals.passed);
    for (count, what) in [(totals.failed, "FAILED"), (totals.known, "known failures"), (totals.not_run, "not run")] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    let difference = totals.difference();
    let difference = if difference.is_empty() { difference } else { format!("  reference: {difference}") };
    format!("{text:<62} {share:>24} {:>7.2} s{difference}", totals.seconds)
}

/// The lines that tell of an event; none where there is nothing to tell.
pub fn told(event: &Event<'_>, host: &Host) -> String {
    match event {
        Event::Adapter(header) => {
            let lines = header.lines(host);
            lines.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect::<String>() + "\n"
        }
        Event::Planned(_) => String::new(),
        Event::Group(cases) => format!("{}\n", line(cases)),
        Event::Case(case) => ended(case),
        Event::Reopened(name) => format!("          {name}: the device is opened anew\n"),
    }
}

/// The lines of a case that has ended: that it failed, and its notes.
fn ended(case: &CaseReport) -> String {
    let name = format!("          {} ({})", case.name, case.variant);
    let mut text = match &case.outcome {
        Outcome::Failed { message } => format!("{name}: FAILED: {message}\n"),
        Outcome::KnownFailure { message, reason } => format!("{name}: known failure: {message}; {reason}\n"),
        _ => String::new(),
    };
    text.extend(beside(case).map(|there| format!("{name}: {there}\n")));
    text.extend(case.notes.iter().map(|note| format!("{name}: {note}\n")));
    text
}

/// Text in XML.
fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(' '),
            // XML 1.0 has no other control characters.
            c if c.is_control() => safe.push('?'),
            c => safe.push(c),
        }
    }
    safe
}

/// The report as JUnit's XML: a suite for each adapter. Known failures and what did not run are skipped tests.
pub fn junit(report: &Report) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for adapter in &report.adapters {
        let skipped = adapter.count("known failure") + adapter.count("not run");
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{skipped}\" time=\"{:.3}\">",
            xml(&adapter.header.title()),
            adapter.cases.len(),
            adapter.count("failed"),
            adapter.seconds
        );
        text.push_str("    <properties>\n");
        for (name, value) in adapter.header.lines(&report.host) {
            let _ = writeln!(text, "      <property name=\"{name}\" value=\"{}\"/>", xml(&value));
        }
        text.push_str("    </properties>\n");
        for case in &adapter.cases {
            let (name, variant) = (xml(&case.name), xml(&case.variant));
            let _ = write!(text, "    <testcase classname=\"{variant}\" name=\"{name}\" time=\"{:.3}\"", case.seconds);
            match (&case.outcome, why(case)) {
                (Outcome::Failed { .. }, Some(why)) => {
                    let _ = writeln!(text, "><failure message=\"{}\"/></testcase>", xml(&why));
                }
                (_, Some(why)) => {
                    let _ = writeln!(text, "><skipped message=\"{}\"/></testcase>", xml(&why));
                }
                (_, None) => text.push_str("/>\n"),
            }
        }
        text.push_str("  </testsuite>\n");
    }
    text + "</testsuites>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_and_tables_do_not_take_is_replaced() {
        assert_eq!(xml("a<b & \"c\"\u{1b}[0m\n"), "a&lt;b &amp; &quot;c&quot;?[0m ");
        assert_eq!(cell("a|b\nc"), "a\\|b c");
    }
}
