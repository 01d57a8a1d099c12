//! The `sdmoe` program.

fn main() {}
