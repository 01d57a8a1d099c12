//! Why there is no adapter, and what helps: asked only where none was found.
//!
//! On Linux a Vulkan program needs the loader (`libvulkan.so.1`), a file that names a driver's library, the library
//! with what it needs itself, and a device that the driver may open. The first of them that is missing is reported.

use std::fs;
use std::path::{Path, PathBuf};

use super::unsafe_code;
use crate::error::INSTALL_HINT;

/// The parts of the machine that the reason depends on.
trait Machine {
    /// A variable of the environment that is not empty.
    fn variable(&self, name: &str) -> Option<String>;
    /// Whether there is a file, folder or device.
    fn exists(&self, path: &Path) -> bool;
    /// The files in a folder; none where there is no such folder.
    fn files(&self, folder: &Path) -> Vec<PathBuf>;
    /// A file's text, or why it cannot be read.
    fn read(&self, path: &Path) -> Result<String, String>;
    /// Loads a shared library as the Vulkan loader does, by its name or path, or returns why not.
    fn load(&self, library: &Path) -> Result<(), String>;
}

/// The machine that the program runs on.
struct Here;

impl Machine for Here {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        files
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        fs::read_to_string(path).map_err(|e| e.to_string())
    }

    fn load(&self, library: &Path) -> Result<(), String> {
        unsafe_code::try_library(library)
    }
}

/// Why no adapter was found on this machine, and what helps.
pub(super) fn reason() -> String {
    if cfg!(target_os = "linux") {
        explain(&Here)
    } else {
        "this system offers none for Metal, DX12 or Vulkan; install or update the graphics driver".to_owned()
    }
}

fn explain(machine: &impl Machine) -> String {
    let graphics = without_graphics(machine);
    let or_install = |reason: String| match &graphics {
        // Software would be slow beside a GPU that is there.
        Some(hint) => format!("{reason}; {hint}"),
        None => format!("{reason}; {INSTALL_HINT}"),
    };
    if let Err(why) = machine.load(Path::new("libvulkan.so.1")) {
        return or_install(format!("the Vulkan loader cannot be loaded ({why})"));
    }
    let manifests = match named(machine) {
        Some((variable, value, files)) if files.is_empty() => {
            return format!(
                "the variable {variable} is '{value}', where there is no driver file; correct it or unset it"
            );
        }
        Some((.., files)) => files,
        None => {
            let folders = folders(machine);
            let files: Vec<_> = folders.iter().flat_map(|folder| manifests_in(machine, folder)).collect();
            if files.is_empty() {
                let below = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
                return or_install(format!("there is a Vulkan loader, but no driver's file in {below}"));
            }
            files
        }
    };
    let faults: Vec<_> = manifests.iter().filter_map(|manifest| fault(machine, manifest)).collect();
    if faults.len() == manifests.len() {
        return or_install(format!("no Vulkan driver can be loaded: {}", faults.join("; ")));
    }
    for variable in ["VK_LOADER_DRIVERS_DISABLE", "VK_LOADER_DRIVERS_SELECT"] {
        if let Some(value) = machine.variable(variable) {
            return format!(
                "the variable {variable} is '{value}', with which no Vulkan driver is left that has a device"
            );
        }
    }
    if let Some(hint) = without_dispatch(machine, &manifests) {
        return hint;
    }
    let names: Vec<_> = manifests.iter().map(|manifest| file_name(manifest)).collect();
    or_install(format!("the Vulkan drivers that are here ({}) find no device that they may open", names.join(", ")))
}

/// The variable that names the drivers' files instead of the folders, its value, and those of the files that exist.
fn named(machine: &impl Machine) -> Option<(&'static str, String, Vec<PathBuf>)> {
    let set = |variable: &'static str| machine.variable(variable).map(|value| (variable, value));
    let (variable, value) = set("VK_DRIVER_FILES").or_else(|| set("VK_ICD_FILENAMES"))?;
    let existing = value.split(':').filter(|path| !path.is_empty()).map(Path::new).filter(|path| machine.exists(path));
    let files = existing.flat_map(|path| match manifests_in(machine, path) {
        files if files.is_empty() => vec![path.to_owned()],
        files => files,
    });
    let files = files.collect();
    Some((variable, value, files))
}

/// Where the loader looks for drivers' files.
fn folders(machine: &impl Machine) -> Vec<PathBuf> {
    let home = |below: &str| machine.variable("HOME").map(|home| format!("{home}/{below}"));
    let or = |variable: &str, other: Option<String>| machine.variable(variable).or(other);
    [
        or("XDG_CONFIG_HOME", home(".config")),
        or("XDG_CONFIG_DIRS", Some("/etc/xdg".into())),
        Some("/usr/local/etc:/etc".into()),
        or("XDG_DATA_HOME", home(".local/share")),
        or("XDG_DATA_DIRS", Some("/usr/local/share:/usr/share".into())),
    ]
    .into_iter()
    .flatten()
    .flat_map(|list| list.split(':').map(|folder| Path::new(folder).join("vulkan/icd.d")).collect::<Vec<_>>())
    .collect()
}

fn manifests_in(machine: &impl Machine, folder: &Path) -> Vec<PathBuf> {
    let mut files = machine.files(folder);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The library that a driver's file names, or why there is none.
fn library(machine: &impl Machine, manifest: &Path) -> Result<PathBuf, String> {
    let text = machine.read(manifest)?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("is no JSON: {e}"))?;
    let library = json["ICD"]["library_path"].as_str().ok_or("names no ICD.library_path")?;
    // A bare name is looked for where the system's libraries are.
    Ok(if library.contains('/') { manifest.parent().unwrap_or(Path::new("/")).join(library) } else { library.into() })
}

/// Returns what keeps the driver of a file from being loaded.
fn fault(machine: &impl Machine, manifest: &Path) -> Option<String> {
    let found = library(machine, manifest).and_then(|library| machine.load(&library));
    found.err().map(|why| format!("{}: {why}", file_name(manifest)))
}

/// The device files of an NVIDIA GPU that is here.
fn nvidia_device(machine: &impl Machine) -> Option<&'static str> {
    ["/dev/nvidiactl", "/dev/nvidia0"].into_iter().find(|path| machine.exists(Path::new(path)))
}

/// The advice where NVIDIA's driver is loaded and finds no device as the libraries of libglvnd are missing, which it
/// loads when it starts: an image with `libvulkan1` alone has none of them.
fn without_dispatch(machine: &impl Machine, manifests: &[PathBuf]) -> Option<String> {
    let device = nvidia_device(machine)?;
    let nvidia = manifests
        .iter()
        .find(|manifest| library(machine, manifest).is_ok_and(|library| file_name(&library).contains("_nvidia.so")))?;
    let mut missing = vec!["libEGL.so.1", "libGLX.so.0", "libGLdispatch.so.0"];
    missing.retain(|name| machine.load(Path::new(name)).is_err());
    if missing.is_empty() {
        return None;
    }
    Some(format!(
        "NVIDIA's Vulkan driver ({}) finds no device although {device} is here: it needs {}, which cannot be loaded; on \
         Debian or Ubuntu: apt-get install -y --no-install-recommends libegl1 libgl1",
        file_name(nvidia),
        missing.join(", ")
    ))
}

/// Returns the advice where an NVIDIA GPU was handed to a container without its Vulkan driver, as is usual for
/// containers that compute.
fn without_graphics(machine: &impl Machine) -> Option<String> {
    let device = nvidia_device(machine);
    let cuda = || machine.load(Path::new("libcuda.so.1")).is_ok().then_some("libcuda.so.1");
    let trace = device.or_else(cuda)?;
    if machine.load(Path::new("libGLX_nvidia.so.0")).is_ok() {
        return None;
    }
    let capabilities = match machine.variable("NVIDIA_DRIVER_CAPABILITIES") {
        Some(value) => format!("NVIDIA_DRIVER_CAPABILITIES is '{value}'"),
        None => "NVIDIA_DRIVER_CAPABILITIES is not set".to_owned(),
    };
    Some(format!(
        "an NVIDIA GPU is here ({trace}) without its Vulkan driver: a container gets that with the capability `graphics` \
         ({capabilities}): start it with -e NVIDIA_DRIVER_CAPABILITIES=all and install libvulkan1 in it"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A machine of files with their texts, variables, and libraries that can be loaded; what else is loaded is
    /// missing.
    #[derive(Clone, Default)]
    struct Fake {
        variables: BTreeMap<&'static str, &'static str>,
        files: BTreeMap<&'static str, &'static str>,
        libraries: Vec<&'static str>,
    }

    impl Machine for Fake {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|value| (*value).to_owned())
        }

        fn exists(&self, path: &Path) -> bool {
            self.files.keys().any(|file| Path::new(file).starts_with(path))
        }

        fn files(&self, folder: &Path) -> Vec<PathBuf> {
            self.files.keys().map(PathBuf::from).filter(|file| file.parent() == Some(folder)).collect()
        }

        fn read(&self, path: &Path) -> Result<String, String> {
            let text = path.to_str().and_then(|path| self.files.get(path));
            text.map(|text| (*text).to_owned()).ok_or_else(|| "No such file".to_owned())
        }

        fn load(&self, library: &Path) -> Result<(), String> {
            let there = self.libraries.iter().any(|name| Path::new(name) == library);
            let missing = || format!("{}: cannot open shared object file", library.display());
            if there { Ok(()) } else { Err(missing()) }
        }
    }

    const LAVAPIPE: &str = "/usr/share/vulkan/icd.d/lvp_icd.json";

    fn with_loader() -> Fake {
        Fake { libraries: vec!["libvulkan.so.1"], ..Fake::default() }
    }

    fn with_driver(manifest: &'static str) -> Fake {
        Fake { files: BTreeMap::from([(LAVAPIPE, manifest)]), ..with_loader() }
    }

    fn told(machine: &Fake, parts: &[&str], install: bool) {
        let reason = explain(machine);
        for part in parts {
            assert!(reason.contains(part), "`{part}` is not in: {reason}");
        }
        assert_eq!(reason.contains("apt-get install"), install, "{reason}");
        assert!(!reason.contains('\n'), "{reason}");
    }

    #[test]
    fn without_a_loader_the_loader_is_told_of() {
        told(&Fake::default(), &["the Vulkan loader cannot be loaded (libvulkan.so.1: cannot open"], true);
    }

    #[test]
    fn without_a_drivers_file_the_folders_are_told() {
        told(&with_loader(), &["no driver's file in /etc/xdg/vulkan/icd.d, ", ", /usr/share/vulkan/icd.d; "], true);
        let mut own = with_loader();
        own.variables.extend([("HOME", "/home/me"), ("XDG_DATA_DIRS", "/nix/share")]);
        told(&own, &["/home/me/.config/vulkan", "/home/me/.local/share/vulkan", "/nix/share/vulkan"], true);
    }

    #[test]
    fn a_variable_that_points_to_nothing_is_named_and_nothing_is_to_be_installed() {
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            let mut machine = with_driver("{}");
            machine.variables.insert(variable, "/nowhere/a.json:/nowhere/b.json");
            told(&machine, &[variable, "'/nowhere/a.json:/nowhere/b.json'", "unset it"], false);
        }
        let mut both = with_driver("{}");
        both.variables.extend([("VK_DRIVER_FILES", LAVAPIPE), ("VK_ICD_FILENAMES", "/nowhere.json")]);
        told(&both, &["lvp_icd.json: names no ICD.library_path"], true);
        let mut folder = with_driver("no json");
        folder.variables.insert("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d");
        told(&folder, &["lvp_icd.json: is no JSON"], true);
    }

    #[test]
    fn a_driver_that_cannot_be_loaded_is_told_with_what_is_missing() {
        told(
            &with_driver(r#"{"ICD": {"library_path": "libvulkan_lvp.so"}}"#),
            &["no Vulkan driver can be loaded: lvp_icd.json: libvulkan_lvp.so: cannot open shared object file"],
            true,
        );
        told(
            &with_driver(r#"{"ICD": {"library_path": "../lib/libvulkan_lvp.so"}}"#),
            &["lvp_icd.json: /usr/share/vulkan/icd.d/../lib/libvulkan_lvp.so: cannot open"],
            true,
        );
    }

    #[test]
    fn drivers_that_load_but_have_no_device_are_listed() {
        let mut machine = with_driver(r#"{"ICD": {"library_path": "libvulkan_lvp.so"}}"#);
        machine.libraries.push("libvulkan_lvp.so");
        told(&machine, &["the Vulkan drivers that are here (lvp_icd.json) find no device"], true);
        machine.variables.insert("VK_LOADER_DRIVERS_DISABLE", "*lvp*");
        told(&machine, &["VK_LOADER_DRIVERS_DISABLE is '*lvp*'"], false);
    }

    #[test]
    fn a_container_without_the_graphics_capability_is_told_what_to_start_it_with() {
        let hint = ["an NVIDIA GPU is here (/dev/nvidiactl)", "-e NVIDIA_DRIVER_CAPABILITIES=all"];
        let mut machine = Fake { files: BTreeMap::from([("/dev/nvidiactl", "")]), ..Fake::default() };
        told(&machine, &["the Vulkan loader cannot be loaded", hint[0], hint[1], "CAPABILITIES is not set"], false);
        machine.libraries.push("libvulkan.so.1");
        machine.variables.insert("NVIDIA_DRIVER_CAPABILITIES", "compute,utility");
        told(&machine, &["no driver's file", hint[0], hint[1], "is 'compute,utility'"], false);
        let nvidia = "/etc/vulkan/icd.d/nvidia_icd.json";
        machine.files.insert(nvidia, r#"{"ICD": {"library_path": "libGLX_nvidia.so.0"}}"#);
        told(&machine, &["nvidia_icd.json: libGLX_nvidia.so.0: cannot open", hint[0]], false);
        machine.libraries.extend(["libGLX_nvidia.so.0", "libEGL.so.1", "libGLX.so.0", "libGLdispatch.so.0"]);
        told(&machine, &["(nvidia_icd.json) find no device"], true);
        let cuda = Fake { libraries: vec!["libvulkan.so.1", "libcuda.so.1"], ..Fake::default() };
        told(&cuda, &["an NVIDIA GPU is here (libcuda.so.1)"], false);
    }

    #[test]
    fn a_container_without_the_libraries_that_nvidias_driver_loads_is_told_to_install_them() {
        let nvidia = "/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json";
        let mut machine = with_loader();
        machine.variables.insert("VK_DRIVER_FILES", nvidia);
        machine.files.insert(nvidia, r#"{"ICD": {"library_path": "libGLX_nvidia.so.0"}}"#);
        machine.files.insert("/dev/nvidia0", "");
        machine.libraries.extend(["libGLX_nvidia.so.0", "libGLdispatch.so.0"]);
        let parts = ["(nvidia_icd.json)", "/dev/nvidia0", "needs libEGL.so.1, libGLX.so.0, which", "libegl1 libgl1"];
        told(&machine, &parts, true);
        assert!(!explain(&machine).contains("mesa"), "{}", explain(&machine));
        // Without the GPU, or beside another driver alone, they would not help.
        let other = Fake { files: BTreeMap::from([(nvidia, machine.files[nvidia])]), ..machine.clone() };
        told(&other, &["find no device that they may open"], true);
        machine.files.insert(nvidia, r#"{"ICD": {"library_path": "libvulkan_lvp.so"}}"#);
        machine.libraries.push("libvulkan_lvp.so");
        told(&machine, &["find no device that they may open"], true);
    }
}
