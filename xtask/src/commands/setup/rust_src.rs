//! The source of the standard library, from which `core` is built for the BPF target.
//!
//! `rustup component add rust-src` is the normal way. Where rustup cannot download, a Debian machine may still reach its
//! mirror: Debian packages the same source for the same version of Rust, in suites newer than most machines run. That package
//! is downloaded, and its files are put where rustup would have put them; nothing of the system changes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::debian::{self, Suite};
use crate::workspace::{root, run as start, sysroot, toolchain_version};

/// Suites of Debian that have recent versions of Rust, the smallest index first.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];

/// Installs the source into the compiler's own directory, if it is not there.
///
/// # Errors
/// What was tried, why it failed, and what to do.
pub fn install() -> Result<String> {
    let version = toolchain_version()?;
    let place = sysroot()?.join("lib/rustlib/src/rust");
    if !is_complete(&place) {
        if place.is_symlink() {
            // A link to a source that is gone would stop both ways.
            fs::remove_file(&place).with_context(|| format!("cannot remove the dangling link {}", place.display()))?;
        }
        let rustup = start(Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(root()?));
        if let Err(rustup) = rustup
            && let Err(debian) = install_from_debian(&version, &place)
        {
            bail!(
                "rust-src {version}, which building the BPF objects needs, could not be installed: {rustup:#}; Debian's package: \
                 {debian:#}. With a network that rustup can use, run `rustup component add rust-src`"
            );
        }
        ensure!(is_complete(&place), "rust-src was installed, but {} does not hold it", place.display());
    }
    Ok(format!("rust-src {version}"))
}

fn is_complete(place: &Path) -> bool {
    place.join("library/core/src/lib.rs").exists()
}

/// Downloads the package from the machine's own mirror and moves its files to `place`.
fn install_from_debian(version: &str, place: &Path) -> Result<()> {
    let parent = place.parent().context("the compiler's directory has no parent")?;
    // On the same file system as the place, so that the move is one step and a half-unpacked tree never looks complete.
    let workshop = parent.join(".rust-src-download");
    let unpacked = workshop.join("unpacked");
    let mirror = debian::mirror()?;
    let package = format!("rust-src={version}*");
    let unpack = |suite| {
        let opened = Suite::open(workshop.clone(), &mirror, suite)?;
        opened.unpack(&package, &unpacked).map(|()| opened)
    };
    let _suite = SUITES
        .iter()
        .find_map(|suite| unpack(suite).map_err(|error| eprintln!("{suite}: {error:#}")).ok())
        .with_context(|| format!("none of {} on {mirror} has it", SUITES.join(", ")))?;
    let source = unpacked.join(format!("usr/src/rustc-{version}"));
    // Only the library is needed; the compiler's own source comes in the same package.
    fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
    let (from, to) = (source.join("library"), place.join("library"));
    fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}
