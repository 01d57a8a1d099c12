//! Whether a browser's WebGPU computes the right thing: the cases of `sdmoe verify` in a browser tab.

#[cfg(target_arch = "wasm32")]
mod page;
#[cfg(target_arch = "wasm32")]
mod settings;

#[cfg(target_arch = "wasm32")]
fn main() {
    page::main();
}

#[cfg(not(target_arch = "wasm32"))]
fn main() -> std::process::ExitCode {
    eprintln!("error: this program is a part of a page, which scripts/build-web makes; here is `sdmoe verify`");
    std::process::ExitCode::from(2)
}
