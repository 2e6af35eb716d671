//! Refuses to build with BPF objects that are older than their sources.
//!
//! Compiles no BPF itself: the objects are committed, so that plain stable Rust builds the agent. Where the package stands
//! alone, without the workspace that holds the sources, only the objects themselves are checked.

#[path = "bpf/manifest.rs"]
mod manifest;

use std::path::Path;
use std::{fs, io};

use manifest::{MANIFEST, SOURCES, digest_of_sources, render};

const REMEDY: &str = "run `cargo xtask ebpf` and commit what it changes in agent/bpf";

fn main() {
    match complaints(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        Ok(complaints) => complaints.iter().for_each(|complaint| println!("cargo::error={complaint}; {REMEDY}")),
        Err(error) => println!("cargo::error={error}; {REMEDY}"),
    }
}

/// What is wrong with the objects, in sentences.
fn complaints(package: &Path) -> io::Result<Vec<String>> {
    let objects = package.join("bpf");
    let workspace = package.join("..");
    let has_sources = workspace.join("agent-ebpf/Cargo.toml").exists();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=bpf");
    if has_sources {
        for source in SOURCES.iter().chain(&["Cargo.lock"]) {
            println!("cargo::rerun-if-changed=../{source}");
        }
    }
    let manifest = objects.join(MANIFEST);
    let found = fs::read_to_string(&manifest)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", manifest.display())))?;
    let of_sources = if has_sources {
        digest_of_sources(&workspace)?
    } else {
        found.lines().find_map(|line| line.strip_prefix("sources = \"")).unwrap_or_default().trim_end_matches('"').to_owned()
    };
    let expected = render(&of_sources, &objects)?;
    let mut complaints = Vec::new();
    for line in expected.lines().filter(|line| !found.lines().any(|other| other == *line)) {
        complaints.push(match line.split_once(" = ") {
            Some(("sources", _)) => "the BPF objects in agent/bpf are older than their sources".to_owned(),
            Some((object, _)) => format!("agent/bpf/{} is not the object that its manifest describes", object.trim_matches('"')),
            None => format!("agent/bpf/{MANIFEST} lacks the line `{line}`"),
        });
    }
    for line in found.lines().filter(|line| line.starts_with('"') && !expected.lines().any(|other| other == *line)) {
        let object = line.split('"').nth(1).unwrap_or_default();
        if !objects.join(object).exists() {
            complaints.push(format!("agent/bpf/{object} is missing"));
        }
    }
    Ok(complaints)
}
