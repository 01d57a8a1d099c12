//! The `sdmoe` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    env_logger::init();
    sdmoe::cli::run(std::env::args_os())
}
