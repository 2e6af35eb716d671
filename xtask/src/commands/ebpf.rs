//! `cargo xtask ebpf`: compiles the BPF programs to the objects that are committed in `agent/bpf`.
//!
//! Each probe becomes three objects: `<probe>.o` with a ring buffer, `<probe>.log.o` with debug messages as well, which need a
//! map of their own, and `<probe>.perf.o` with a perf event array. The bytes depend on the sources, the compiler and the linker
//! alone, so that `--check` can tell whether an object is what it claims to be. `agent/bpf/manifest.rs` has what decides the
//! bytes; it is shared with the agent's build script.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::setup;
use crate::workspace::{cargo, cargo_home, root, run as start, sysroot};

#[path = "../../../agent/bpf/manifest.rs"]
pub mod manifest;

use manifest::{MANIFEST, PROFILE, RUSTFLAGS, TARGET, digest_of_sources, render};

/// The builds of each probe: the feature that makes it, and what the name of the object ends with.
const VARIANTS: [(Option<&str>, &str); 3] = [(None, ".o"), (Some("log"), ".log.o"), (Some("perf"), ".perf.o")];

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// Change nothing; fail when a committed object is not what its sources yield
    #[arg(long)]
    check: bool,
}

/// Builds the objects, and writes or checks those that are committed.
pub fn run(options: &Options) -> Result<()> {
    if options.check { check() } else { write() }
}

/// Fails when a committed object, or the manifest, is not what the sources yield.
pub fn check() -> Result<()> {
    let built = build()?;
    let directory = root()?.join("agent/bpf");
    let mut stale: Vec<String> = Vec::new();
    for (name, bytes) in &built {
        if fs::read(directory.join(name)).ok().as_ref() != Some(bytes) {
            stale.push(format!("agent/bpf/{name}"));
        }
    }
    stale.extend(leftovers(&directory, &built)?.iter().map(|path| format!("agent/bpf/{} (no such probe)", file_name(path))));
    let expected = render(&digest_of_sources(&root()?)?, &directory)?;
    if fs::read_to_string(directory.join(MANIFEST)).ok() != Some(expected) {
        stale.push(format!("agent/bpf/{MANIFEST}"));
    }
    if !stale.is_empty() {
        bail!("not what the sources yield: {}; run `cargo xtask ebpf` and commit what it changes", stale.join(", "));
    }
    println!("{} objects in agent/bpf are what their sources yield", built.len());
    Ok(())
}

fn write() -> Result<()> {
    let built = build()?;
    let directory = root()?.join("agent/bpf");
    for path in leftovers(&directory, &built)? {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for (name, bytes) in &built {
        // An object that stays the same keeps its time stamp, so that the agent is not built again for it.
        if fs::read(directory.join(name)).ok().as_ref() != Some(bytes) {
            fs::write(directory.join(name), bytes).with_context(|| format!("cannot write agent/bpf/{name}"))?;
        }
        println!("{:>7} bytes  agent/bpf/{name}", bytes.len());
    }
    let manifest = render(&digest_of_sources(&root()?)?, &directory)?;
    fs::write(directory.join(MANIFEST), manifest).with_context(|| format!("cannot write agent/bpf/{MANIFEST}"))
}

/// A cargo command on the package of the BPF programs, with all the flags that decide the bytes of the objects.
pub fn cargo_for_bpf(subcommand: &str) -> Result<Command> {
    let mut command = cargo()?;
    command.args([subcommand, "--package", "agent-ebpf", "--release", "--target", TARGET, "-Z", "build-std=core"]);
    command.args(["--target-dir", "target/bpf"]);
    // `build-std` is unstable; this lets the pinned stable compiler take it.
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags()?).envs(PROFILE.iter().copied());
    // Wrappers of the compiler may see these flags differently.
    for variable in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    Ok(command)
}

/// Compiles all objects; their names and bytes.
fn build() -> Result<BTreeMap<String, Vec<u8>>> {
    setup::bpf_toolchain()?;
    let built = root()?.join("target/bpf").join(TARGET).join("release");
    let mut objects = BTreeMap::new();
    for (feature, ending) in VARIANTS {
        let mut command = cargo_for_bpf("build")?;
        command.arg("--bins").args(feature.map(|feature| format!("--features={feature}")));
        start(&mut command)?;
        for probe in probes()? {
            let path = built.join(&probe);
            let bytes = fs::read(&path)
                .with_context(|| format!("cannot read {}: has agent-ebpf/Cargo.toml a [[bin]] for it?", path.display()))?;
            objects.insert(format!("{probe}{ending}"), bytes);
        }
    }
    Ok(objects)
}

/// Names of the probes: one file each beside `lib.rs`.
fn probes() -> Result<Vec<String>> {
    let directory = root()?.join("agent-ebpf/src");
    let mut probes = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let name = file_name(&entry?.path());
        probes.extend(name.strip_suffix(".rs").filter(|stem| *stem != "lib").map(str::to_owned));
    }
    ensure!(!probes.is_empty(), "{} holds no probes", directory.display());
    probes.sort();
    Ok(probes)
}

/// Objects that are there and that no probe yields any more.
fn leftovers(directory: &Path, built: &BTreeMap<String, Vec<u8>>) -> Result<Vec<PathBuf>> {
    let mut files = manifest::files_under(directory)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "o") && !built.contains_key(&file_name(path)));
    Ok(files)
}

/// The flags, with every directory that is the builder's own renamed, as the objects must not tell it.
fn flags() -> Result<OsString> {
    let library = sysroot()?.join("lib/rustlib/src/rust");
    let mut renamed = vec![(library.clone(), "/rust"), (root()?, "/sysops-agent")];
    renamed.extend(fs::canonicalize(&library).map(|target| (target, "/rust")));
    renamed.extend(cargo_home().map(|home| (home, "/cargo")));
    let mut flags: OsString = RUSTFLAGS.join("\x1f").into();
    for (path, name) in renamed {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(path);
        flags.push("=");
        flags.push(name);
    }
    Ok(flags)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\nchecksum = \"ea\"\ndependencies = [\n \"syn\",\n]\n\n\
                        [[package]]\nname = \"syn\"\nversion = \"2.0.1\"\n";

    fn workspace() -> TempDir {
        let workspace = TempDir::new().unwrap();
        for package in ["agent-common", "agent-ebpf"] {
            fs::create_dir_all(workspace.path().join(package).join("src")).unwrap();
            fs::write(workspace.path().join(package).join("Cargo.toml"), "[package]").unwrap();
        }
        fs::write(workspace.path().join("agent-ebpf/src/oom.rs"), "fn main() {}").unwrap();
        fs::write(workspace.path().join("rust-toolchain.toml"), "[toolchain]").unwrap();
        fs::write(workspace.path().join("Cargo.lock"), LOCK).unwrap();
        workspace
    }

    /// Whether writing `text` to `file` makes the objects stale.
    fn matters(file: &str, text: &str) -> bool {
        let workspace = workspace();
        let before = digest_of_sources(workspace.path()).unwrap();
        fs::write(workspace.path().join(file), text).unwrap();
        before != digest_of_sources(workspace.path()).unwrap()
    }

    #[test]
    fn what_decides_the_objects_makes_them_stale() {
        assert!(matters("agent-ebpf/src/oom.rs", "fn main() { }"));
        assert!(matters("agent-ebpf/src/new.rs", ""));
        assert!(matters("agent-common/src/lib.rs", "//! Records."));
        assert!(matters("rust-toolchain.toml", "[toolchain]\nchannel = \"1.96.0\""));
        assert!(matters("Cargo.lock", &LOCK.replace("0.2.1", "0.2.2")));
        assert!(matters("Cargo.lock", &LOCK.replace("\"ea\"", "\"eb\"")));
    }

    #[test]
    fn what_decides_nothing_does_not() {
        assert!(!matters("agent-ebpf/src/oom.rs", "fn main() {}"));
        assert!(!matters("agent-ebpf/src/oom.rs~", "fn main() { }"));
        assert!(!matters("README.md", "# Read me"));
        assert!(!matters("Cargo.lock", &LOCK.replace("2.0.1", "2.0.2")));
    }

    #[test]
    fn a_missing_source_is_an_error_that_names_it() {
        let workspace = workspace();
        fs::remove_file(workspace.path().join("Cargo.lock")).unwrap();
        let error = digest_of_sources(workspace.path()).unwrap_err().to_string();
        assert!(error.contains("Cargo.lock"), "{error}");
    }

    #[test]
    fn the_manifest_lists_objects_and_nothing_else() {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("oom.o"), "abc").unwrap();
        fs::write(directory.path().join("manifest.rs"), "").unwrap();
        let manifest = render("12", directory.path()).unwrap();
        let lines: Vec<&str> = manifest.lines().filter(|line| line.contains(" = ")).collect();
        // The digest of "abc" from FIPS 180-2, appendix B.1.
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(lines, ["sources = \"12\"", &format!("\"oom.o\" = \"{digest}\"")]);
    }
}
