//! What the program says of adapters: which is taken and how, and, where there is none, why.

use crate::common::place::{Place, failed};
use assert_cmd::Command;

/// The program without what its environment says of devices.
fn plain(place: &Place, args: &str) -> Command {
    let mut command = place.command(args);
    for variable in ["SDMOE_TIER", "SDMOE_MAX_BINDING"] {
        command.env_remove(variable);
    }
    command
}

fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A run of one step of a model that any family of kernels trains at once.
const SMALL: &str = "[model]\nlayers = 1\nd_model = 32\nheads = 2\nkv_heads = 1\nhead_dim = 16\n\
    [model.moe]\nexperts = 2\ntop_k = 1\nd_expert = 16\nd_shared = 16\n\
    [spectral]\nenabled = false\n\
    [train]\nsteps = 1\nbatch = 1\nseq = 16\n";

#[test]
fn the_kernels_and_the_binding_limit_are_set_by_flags_or_variables_and_shown() {
    let place = Place::new();
    let own = printed(&mut plain(&place, "devices"));
    assert_eq!(own.matches("taken            yes, ").count(), 1, "{own}");
    let expected = "taken            yes, plain kernels, bindings of at most 1 MiB, matrix units: none";
    let flags = printed(&mut plain(&place, "devices --tier plain --max-binding 1MiB"));
    assert!(flags.contains(expected), "{flags}");
    // The former names hold, too.
    for name in ["gpu", "workgroup"] {
        assert!(printed(&mut plain(&place, &format!("devices --tier {name}"))).contains("yes, gpu kernels"), "{name}");
    }
    let set = |tier, binding| {
        let mut command = plain(&place, "devices");
        printed(command.env("SDMOE_TIER", tier).env("SDMOE_MAX_BINDING", binding))
    };
    assert!(set("plain", "1048576").contains(expected));
    assert_eq!(set("", ""), own);
    assert_eq!(set("auto", "auto"), own);
    let mut over = plain(&place, "devices --tier auto --max-binding auto");
    assert_eq!(printed(over.env("SDMOE_TIER", "plain").env("SDMOE_MAX_BINDING", "1MiB")), own);
    place.write("text", "the quick brown fox jumps over the lazy dog. ".repeat(20));
    place.write("run.toml", SMALL);
    let mut train = plain(&place, "train --data text --config run.toml --out run --report off --tier plain");
    let output = train.env("RUST_LOG", "sdmoe=debug").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("Plain kernels"), "{log}");
}

#[test]
fn a_family_of_kernels_or_a_limit_that_is_none_is_told() {
    let place = Place::new();
    place.fails("devices --tier fast", "'fast'");
    place.fails("devices --max-binding 1000", "expected bytes, at least 65536, as 16777216 or 16MiB, or auto");
    let output = plain(&place, "devices").env("SDMOE_TIER", "fast").output().unwrap();
    failed("SDMOE_TIER=fast", &output, "'fast'");
    place.fails("devices --adapter nothing-of-this-name", "adapter `nothing-of-this-name` not found; available: 0: ");
}

#[cfg(target_os = "linux")]
#[test]
fn without_an_adapter_the_reason_is_told_in_one_line() {
    let place = Place::new();
    place.write(
        "broken/driver.json",
        r#"{"file_format_version": "1.0.0", "ICD": {"library_path": "./none.so", "api_version": "1.1.0"}}"#,
    );
    place.write("text.json", "no driver");
    let told = |variables: &[(&str, &str)], expected: &str| {
        for args in ["devices", "bench gemm --quick"] {
            let mut command = plain(&place, args);
            for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
                command.env_remove(variable);
            }
            failed(args, &command.envs(variables.iter().copied()).output().unwrap(), expected);
        }
    };
    let nowhere = ("VK_DRIVER_FILES", "/nowhere/driver.json");
    told(
        &[nowhere],
        "error: no GPU adapter found: the variable VK_DRIVER_FILES is '/nowhere/driver.json', where there is no driver file",
    );
    told(&[("VK_ICD_FILENAMES", "/nowhere/driver.json")], "the variable VK_ICD_FILENAMES is '/nowhere/driver.json'");
    let broken = place.path("broken/driver.json");
    told(&[("VK_ICD_FILENAMES", broken.to_str().unwrap())], "no Vulkan driver can be loaded: driver.json: ");
    told(&[("VK_ICD_FILENAMES", broken.to_str().unwrap())], "none.so: cannot open shared object file");
    told(&[("VK_ICD_FILENAMES", place.path("text.json").to_str().unwrap())], "text.json: is no JSON: ");
}

#[cfg(target_os = "linux")]
#[test]
fn a_driver_prints_nothing_where_there_is_no_desktop() {
    let place = Place::new();
    let mut command = plain(&place, "devices");
    let output = command.env_remove("XDG_RUNTIME_DIR").env_remove("NODEVICE_SELECT").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
