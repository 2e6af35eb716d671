//! `cargo xtask setup`: brings a fresh machine to where every other command works.
//!
//! Does nothing, quickly, where all is there. The other commands call the parts they need; `run` and `build` need none of
//! them, as the BPF objects are committed.

pub mod mail_server;
pub mod packages;
mod rust_src;

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::ebpf::manifest::LINKER_VERSION;
use crate::workspace::{cargo, find_program, output, root, run as start, sysroot, toolchain_version};

/// Installs everything that is missing. A part that fails does not keep the others from being tried.
pub fn run() -> Result<()> {
    let parts: [fn() -> Result<String>; 5] = [rust, bpf_linker, rust_src::install, packages::install, mail_server::unpack];
    let mut failures = Vec::new();
    for part in parts {
        match part() {
            Ok(found) => println!("ok: {found}"),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    if !failures.is_empty() {
        bail!("not everything could be set up:\n  {}", failures.join("\n  "));
    }
    Ok(())
}

/// Installs what `cargo xtask ebpf` needs.
pub fn bpf_toolchain() -> Result<()> {
    rust()?;
    bpf_linker()?;
    rust_src::install()?;
    Ok(())
}

/// Installs what `cargo xtask lint` needs: it compiles the BPF programs as far as the linker, and not further.
pub fn lint_toolchain() -> Result<()> {
    rust()?;
    rust_src::install()?;
    Ok(())
}

/// The pinned compiler, with the components that `rust-toolchain.toml` lists.
fn rust() -> Result<String> {
    let wanted = toolchain_version()?;
    let found = output(Command::new("rustc").arg("--version").current_dir(root()?))?;
    let found = found.split_whitespace().nth(1).unwrap_or_default();
    ensure!(
        found == wanted,
        "rustc is {found} and rust-toolchain.toml asks for {wanted}: `rustup toolchain install {wanted}` gets it, where rustup \
         (https://rustup.rs) manages the compiler"
    );
    let programs = sysroot()?.join("bin");
    for (component, program) in [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")] {
        if !programs.join(program).exists() {
            start(Command::new("rustup").args(["component", "add", component]).current_dir(root()?))
                .with_context(|| format!("{component} is missing beside rustc and could not be installed"))?;
        }
    }
    Ok(format!("rustc {wanted} with rustfmt and clippy"))
}

/// bpf-linker of the version that the objects are made with.
fn bpf_linker() -> Result<String> {
    let wanted = format!("bpf-linker {LINKER_VERSION}");
    let found = find_program("bpf-linker").and_then(|program| output(Command::new(program).arg("--version")).ok());
    if found.as_deref().map(str::trim) != Some(&wanted) {
        start(cargo()?.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])).with_context(
            || format!("{wanted} could not be installed; it comes from the registry that cargo uses and needs a C++ toolchain"),
        )?;
    }
    Ok(wanted)
}
