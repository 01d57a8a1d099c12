//! The `sdmoe` program.

use std::io::Write;
use std::process::ExitCode;

use sdmoe::train::progress::plain;

fn main() -> ExitCode {
    // What goes wrong is reported by the program itself, in one line; the log is for who asks for it. As the default,
    // but that names in what is logged do nothing to a terminal.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off"))
        .format(|out, record| {
            let (level, target) = (record.level(), record.target());
            writeln!(out, "[{} {level} {target}] {}", out.timestamp(), plain(&record.args().to_string()))
        })
        .init();
    sdmoe::cli::run(std::env::args_os())
}
