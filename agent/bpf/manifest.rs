//! How the BPF objects in this directory are made, and how to tell that they are out of date.
//!
//! Included by `agent/build.rs`, which refuses to embed stale objects, and by `cargo xtask ebpf`, which makes them; neither
//! depends on the other. Nothing here runs a compiler, so a build of the agent needs no BPF toolchain.

use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest, Sha256};

/// Name of the manifest in the directory of the objects.
pub const MANIFEST: &str = "manifest.toml";

/// Version of bpf-linker. It uses the LLVM of rustc itself, so this and `rust-toolchain.toml` fix the code generator.
pub const LINKER_VERSION: &str = "0.10.3";

/// Target of the objects. Hosts that are little-endian share it.
pub const TARGET: &str = "bpfel-unknown-none";

/// Compiler flags that shape the objects; those that keep the builder's paths out of them are added where they are known.
///
/// `bpf_target_arch` selects a layout of `pt_regs`, which no program uses: registers are read at offsets that the loader hands
/// over. So one value serves all hosts.
pub const RUSTFLAGS: &[&str] = &["--cfg=bpf_target_arch=\"x86_64\"", "-Clinker=bpf-linker"];

/// Profile of the objects, as variables for cargo, so that the profile of the agent may change without them.
pub const PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

/// What the objects are made of, relative to the workspace: files, and directories with all Rust that is in them.
pub const SOURCES: &[&str] =
    &["agent-common/Cargo.toml", "agent-common/src", "agent-ebpf/Cargo.toml", "agent-ebpf/src", "rust-toolchain.toml"];

/// Packages of other people whose code ends up in the objects, by the beginning of their names in `Cargo.lock`.
///
/// Those that only help to compile (syn, quote, …) are left out: updating them rarely changes an object, and
/// `cargo xtask ebpf --check` finds out when it does.
const LINKED_PACKAGES: &[&str] = &["aya-ebpf", "aya-log-common", "aya-log-ebpf"];

/// Digest over all that decides what the objects are: sources, versions of what they link, toolchain, flags.
///
/// # Errors
/// A source that cannot be read, with its path.
pub fn digest_of_sources(workspace: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        // The length keeps two parts from running into each other.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    add(LINKER_VERSION.as_bytes());
    add(TARGET.as_bytes());
    for option in RUSTFLAGS.iter().chain(PROFILE.iter().flat_map(|(variable, value)| [variable, value])) {
        add(option.as_bytes());
    }
    for source in SOURCES {
        for path in files_under(&workspace.join(source))? {
            // What editors leave behind is no source.
            if !path.extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
                continue;
            }
            let name = path.strip_prefix(workspace).unwrap_or(&path);
            add(name.as_os_str().as_encoded_bytes());
            add(&read(&path)?);
        }
    }
    let lock = read(&workspace.join("Cargo.lock"))?;
    linked_packages(&String::from_utf8_lossy(&lock)).for_each(|line| add(line.as_bytes()));
    Ok(hex(&digest.finalize()))
}

/// The manifest of the objects that are in `directory` now.
///
/// # Errors
/// An object that cannot be read, with its path.
pub fn render(digest_of_sources: &str, directory: &Path) -> io::Result<String> {
    let mut manifest = format!(
        "# Written by `cargo xtask ebpf`, checked by every build of the agent. SHA-256 of what the objects are made of and of \
         each object.\n\nsources = \"{digest_of_sources}\"\n\n[objects]\n"
    );
    for path in files_under(directory)? {
        if path.extension().is_some_and(|extension| extension == "o") {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            manifest += &format!("\"{name}\" = \"{}\"\n", hex(&Sha256::digest(read(&path)?)));
        }
    }
    Ok(manifest)
}

/// All files in a directory and below it, sorted; a file stands for itself.
///
/// # Errors
/// A directory that cannot be listed, with its path.
pub fn files_under(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries =
        fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    if let Ok(entries) = &mut entries {
        entries.sort();
    }
    let mut files = Vec::new();
    for entry in entries.map_err(|error| at(path, &error))? {
        files.extend(files_under(&entry)?);
    }
    Ok(files)
}

/// Name, version and checksum lines of the packages that end up in the objects.
fn linked_packages(lock: &str) -> impl Iterator<Item = &str> {
    lock.split("[[package]]")
        .filter(|package| {
            let name = package.trim_start().strip_prefix("name = \"").unwrap_or_default();
            LINKED_PACKAGES.iter().any(|linked| name.starts_with(linked))
        })
        .flat_map(|package| package.trim_start().lines().take_while(|line| line.contains(" = \"")))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| at(path, &error))
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
