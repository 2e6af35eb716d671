//! `cargo xtask lint`: who imports whom, formatting, and clippy on both targets.

pub mod imports;
mod source;

use std::fs;

use anyhow::{Context, Result, bail};

use super::{ebpf, setup};
use crate::workspace::{cargo, root, run as start};

/// Runs all checks; the cheapest first.
pub fn run() -> Result<()> {
    setup::lint_toolchain()?;
    check_imports()?;
    start(cargo()?.args(["fmt", "--all", "--check"]))?;
    // A workspace of its own.
    start(cargo()?.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    start(cargo()?.args(["clippy", "--all-targets", "--", "-D", "warnings"]))?;
    for features in [&[][..], &["--features=log"], &["--features=perf"]] {
        start(ebpf::cargo_for_bpf("clippy")?.args(features).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Checks every file of the agent against the table in [`imports`].
fn check_imports() -> Result<()> {
    let directory = root()?.join("agent/src");
    let mut violations = Vec::new();
    let files = ebpf::manifest::files_under(&directory)?;
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&directory).unwrap_or(path);
        violations.extend(imports::violations(name, &text));
    }
    if !violations.is_empty() {
        bail!(
            "imports that the house forbids (the table is in xtask/src/commands/lint/imports.rs):\n  {}",
            violations.join("\n  ")
        );
    }
    println!("{} files of the agent import what they may", files.len());
    Ok(())
}
