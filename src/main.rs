//! The `sdmoe` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // What goes wrong is told by the program itself, in one line; the log is for who asks for it.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    sdmoe::cli::run(std::env::args_os())
}
