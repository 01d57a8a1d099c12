//! A folder in which a test starts the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

/// A folder that goes with the test.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// `sdmoe` with words split at spaces, ready to start here.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::cargo_bin("sdmoe").unwrap();
        // The user's folder is not the tests'.
        command.env("SDMOE_PIPELINE_CACHE", "off");
        // Without it the software driver complains on standard error.
        command.env("XDG_RUNTIME_DIR", self.dir.path()).current_dir(self.dir.path()).args(args.split(' '));
        command
    }

    /// Runs `sdmoe`, which must end well, and gives back its standard output.
    pub fn runs(&self, args: &str) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `sdmoe`; it must fail with code 2 and `expected` in its one line, and write nothing.
    pub fn fails(&self, args: &str, expected: &str) {
        let before = self.tree();
        let output = self.command(args).output().unwrap();
        failed(args, &output, expected);
        assert_eq!(self.tree(), before, "{args}: nothing may be written");
    }

    /// As [`Place::fails`] where another process writes meanwhile.
    pub fn fails_alone(&self, args: &str, expected: &str) {
        failed(args, &self.command(args).output().unwrap(), expected);
    }

    /// Every file and folder with its content.
    pub fn tree(&self) -> Vec<(PathBuf, Vec<u8>)> {
        tree(self.dir.path())
    }
}

/// The output is that of a program that failed with code 2 and one line that has `expected` in it.
pub fn failed(args: &str, output: &Output, expected: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args}: {message}");
    assert!(message.contains(expected), "{args}: expected `{expected}` in: {message}");
    assert!(message.starts_with("error: "), "{args}: {message}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args}");
    assert_eq!(message.trim_end().lines().count(), 1, "{args}: {message}");
}

/// Every file below `dir` with its content.
pub fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.push((path.clone(), Vec::new()));
            files.extend(tree(&path));
        } else {
            files.push((path.clone(), fs::read(&path).unwrap_or_default()));
        }
    }
    files.sort();
    files
}
