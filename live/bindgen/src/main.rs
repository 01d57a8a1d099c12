//! Makes the JavaScript that loads a WebAssembly program: `sdmoe-live-bindgen PROGRAM.wasm FOLDER`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, folder] = arguments.as_slice() else {
        eprintln!("error: expected PROGRAM.wasm FOLDER, got {} arguments", arguments.len());
        return ExitCode::from(2);
    };
    let made = wasm_bindgen_cli_support::Bindgen::new()
        .input_path(program)
        .web(true)
        .map(|bindgen| bindgen.typescript(false).omit_default_module_path(false).remove_name_section(true))
        .and_then(|bindgen| bindgen.generate(folder));
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {program}: {error:#}");
            ExitCode::from(2)
        }
    }
}
