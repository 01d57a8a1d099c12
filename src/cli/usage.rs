//! The command line as people write it: mistakes are one line, and a negative number is a value.

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

/// Puts a negative number that follows a flag to the flag, `--lr -1` as `--lr=-1`, so that it is judged as a value, and
/// not as a flag that does not exist.
pub(super) fn join_negative_numbers(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut over = false;
    for arg in args {
        let text = arg.to_str().unwrap_or_default();
        over |= text == "--";
        let number = !over && text.starts_with('-') && text.parse::<f64>().is_ok();
        let takes = |last: &&mut OsString| last.to_str().is_some_and(|l| l.starts_with("--") && !l.contains('='));
        match joined.last_mut().filter(|last| number && takes(last)) {
            Some(flag) => {
                flag.push("=");
                flag.push(&arg);
            }
            None => joined.push(arg),
        }
    }
    joined
}

/// Returns in one line what is wrong with a command line.
pub(super) fn one_line<P: Parser>(error: &clap::Error) -> String {
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        let command = P::command();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        return format!("expected a command: {}; see --help", names.join(", "));
    }
    let rendered = error.render().to_string();
    let text = rendered.strip_prefix("error: ").unwrap_or(&rendered);
    // Paragraphs: the mistake, what might have been meant, the usage, where there is help.
    let mistake = text.split("\n\n").take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let lines = mistake.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|part| !part.is_empty()).chain(["see --help".to_owned()]).collect::<Vec<_>>().join("; ")
}

/// A whole number that is not negative.
pub(super) fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a whole number of at least 0 and below 2^64, got {text}"))
}

/// Numbers of layers, ascending.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layers(pub(super) Vec<usize>);

/// Numbers and ranges: `0-3,7`.
pub(super) fn layers(text: &str) -> Result<Layers, String> {
    let wrong = || format!("expected numbers and ranges such as 0-3,7, got {text}");
    let mut found = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |s: &str| s.trim().parse::<usize>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        // Nobody has more layers; a typing error should not take the memory.
        if first > last || last >= 100_000 {
            return Err(wrong());
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    Ok(Layers(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(args: &str) -> String {
        let args = join_negative_numbers(args.split(' ').map(OsString::from));
        args.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_negative_number_after_a_flag_is_its_value() {
        assert_eq!(joined("sdmoe train --lr -1 --steps -3"), "sdmoe train --lr=-1 --steps=-3");
        assert_eq!(joined("x --lr -1e-3 --top-p -inf"), "x --lr=-1e-3 --top-p=-inf");
        for unchanged in ["x --lr=2 -1", "x -1", "x --data a -1", "x --quiet -h", "x -- --lr -1", "x --lr --steps"] {
            assert_eq!(joined(unchanged), unchanged);
        }
    }
}
