//! Experts of a Mixture-of-Experts model learn before one's eyes: with spectral decoupling and without, in a window or in
//! a browser tab.

mod app;
mod colour;
mod export;
#[cfg(not(target_arch = "wasm32"))]
mod headless;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod platform;
mod session;
mod settings;
mod texts;
mod view;
#[cfg(target_arch = "wasm32")]
mod web;
mod window;

#[cfg(not(target_arch = "wasm32"))]
fn main() -> std::process::ExitCode {
    native::main()
}

#[cfg(target_arch = "wasm32")]
fn main() {
    web::main();
}
