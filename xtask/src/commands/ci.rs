//! `cargo xtask ci`: everything that a change must pass, in the order in which a failure is found soonest.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use xtask::faults::SKIPS_FILE;

use super::{demo, ebpf, lint, setup, vm_test};
use crate::workspace::{cargo, is_root, release_directory, run as start, search_path, sysroot};

type Step = (&'static str, fn() -> Result<()>);

/// Runs all steps; the first that fails ends it.
pub fn run() -> Result<()> {
    let steps: [Step; 7] = [
        ("setup", setup::run),
        ("lint", lint::run),
        ("ebpf --check", ebpf::check),
        ("build without the BPF toolchain", build_without_bpf_toolchain),
        ("test", test_without_skips),
        ("demo", demo_as_root),
        ("vm-test --check", vm_test::check),
    ];
    let mut report = Vec::new();
    for (name, step) in steps {
        eprintln!("== {name}");
        let began = Instant::now();
        step().with_context(|| format!("{name} failed"))?;
        report.push(format!("{name} ({})", seconds(began.elapsed())));
    }
    let who = if is_root() { "as root" } else { "without root" };
    println!("passed {who}: {}", report.join(", "));
    Ok(())
}

/// Builds the agent with the compiler alone in reach, and without leave to use unstable features, which `build-std` is.
fn build_without_bpf_toolchain() -> Result<()> {
    let mut directories = vec![sysroot()?.join("bin")];
    directories.extend(search_path().into_iter().filter(|directory| !directory.join("bpf-linker").exists()));
    start(
        cargo()?
            .args(["build", "--package", "sysops-agent"])
            .env("PATH", env::join_paths(directories).context("a directory in PATH holds a colon")?)
            .env_remove("RUSTC_BOOTSTRAP"),
    )
}

/// Runs the command that README.md names, and fails when a test was skipped.
fn test_without_skips() -> Result<()> {
    let skips = skip_file()?;
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    start(cargo()?.args(["xtask", "test"]).env("CI", "true").env(SKIPS_FILE, &skips))?;
    let skipped = fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
    ensure!(skipped.trim().is_empty(), "tests were skipped, which this command does not allow:\n{}", skipped.trim());
    Ok(())
}

/// Without root there is nothing to see.
fn demo_as_root() -> Result<()> {
    if is_root() { demo::run() } else { Ok(()) }
}

fn skip_file() -> Result<PathBuf> {
    let release = release_directory()?;
    Ok(release.parent().unwrap_or(Path::new(".")).join("skipped-tests"))
}

fn seconds(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}
