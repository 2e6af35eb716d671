//! A host of which one file says what the fuzzer says.
//!
//! Whatever is reachable through the agent's public interface is fuzzed through it: no parser is public for this alone. What is
//! not, because only the kernel can ask for it, the agent shows where it is built for fuzzing (`cfg(fuzzing)`).

pub mod files;

use std::fs;
use std::path::{Path, PathBuf};

use sysops_agent::config::HostRoots;
use sysops_agent::host::Host;

/// Files of a host, in a directory for temporary files. `cargo xtask bench fuzz` removes it.
pub struct Tree(PathBuf);

impl Tree {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        let tree = Self(std::env::temp_dir().join(format!("{name}-{}", std::process::id())));
        fs::create_dir_all(&tree.0).expect("the directory for temporary files can be written");
        tree
    }

    /// A copy of a fixture host.
    pub fn of_host(name: &str) -> Self {
        let tree = Self::new(name);
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/hosts").join(name), &tree.0);
        tree
    }

    /// What a file says.
    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.0.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Lets a file say something else.
    pub fn write(&self, file: &str, bytes: &[u8]) {
        let path = self.0.join(file);
        if let Err(error) = fs::write(&path, bytes) {
            fs::create_dir_all(path.parent().expect("it lies in the tree")).unwrap_or_else(|_| panic!("{file}: {error}"));
            fs::write(path, bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }

    /// The host.
    pub fn host(&self) -> Host {
        Host::new(HostRoots { procfs: self.0.join("proc"), sysfs: self.0.join("sys"), rootfs: self.0.join("root") })
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the fixture host is there") {
        let from = entry.expect("it can be listed").path();
        let to = to.join(from.file_name().expect("an entry has a name"));
        if from.is_dir() {
            fs::create_dir_all(&to).expect("the copy can be written");
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("the copy can be written");
        }
    }
}
