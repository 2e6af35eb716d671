//! `cargo xtask vm-test`: real faults on other kernels, each in a virtual machine with the real agent.
//!
//! Host and guest are the same program: it fetches kernels, builds the machines' file system and boots them; in the machine it
//! is the first process. Nothing of this needs root, but installing what is missing.

mod cells;
mod guest;
mod initramfs;
mod kernels;
mod machine;
mod modes;
mod table;

use std::env::consts::ARCH;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::initramfs::Initramfs;
use self::kernels::{Kernel, SERIES, Series};
use self::table::Examined;
use super::setup;
use crate::workspace::{cargo, release_directory, run as start};

pub use guest::run as guest;

/// Static programs run on any root file system; `crt-static` needs the target to be named, or it would reach procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The release build without what takes its linker long.
const PROFILE: &str = "vm";
const FLAGS: &str = "-C target-feature=+crt-static";

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// Kernel series to boot; all where none is named, which also writes docs/kernels.md
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Fetch the newest kernel of each series, even where one is in the cache
    #[arg(long)]
    renew: bool,
    /// Compare docs/kernels.md with what came out, instead of writing it
    #[arg(long, conflicts_with = "kernel")]
    check: bool,
}

/// The whole matrix, and the page as it is committed.
pub fn check() -> Result<()> {
    run(&Options { kernel: Vec::new(), renew: false, check: true })
}

/// Runs the matrix, and fails when a cell is not as it should be.
pub fn run(options: &Options) -> Result<()> {
    ensure!(ARCH == "x86_64", "the kernels are those of x86_64; this machine is {ARCH}");
    let chosen = choose(&options.kernel)?;
    setup::packages::install_for_machines()?;
    let [agent, xtask] = programs()?;
    let base = Initramfs::new(&[&agent, &xtask])?;
    let kernels = chosen.into_iter().map(|series| kernels::fetch(series, options.renew)).collect::<Result<Vec<_>>>()?;
    let examined = side_by_side(&kernels, |kernel| examine(kernel, &base))?;
    let bad = table::print(&examined);
    // A page with failures is written all the same: it is what there is to look at.
    if options.kernel.is_empty() && !options.check {
        table::write_page(&examined)?;
    }
    ensure!(bad == 0, "{bad} cells are not as they should be");
    if options.check { table::compare_page(&examined) } else { Ok(()) }
}

/// Boots a kernel, and gives what its machine reported.
fn examine(kernel: &Kernel, base: &Initramfs) -> Result<Examined> {
    eprintln!("== {}", kernel.release);
    let began = Instant::now();
    let directory = target()?.join("machines").join(kernel.series);
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let initramfs = directory.join("initramfs");
    fs::write(&initramfs, base.with_modules(kernel)?).with_context(|| format!("cannot write {}", initramfs.display()))?;
    let mut modes = machine::run(kernel, &initramfs, &directory)?;
    modes.retain(|line| line["mode"].is_string());
    let took = began.elapsed().as_secs_f64();
    eprintln!("{} took {took:.0} s; console and report are in {}", kernel.release, directory.display());
    Ok(Examined { series: kernel.series, release: kernel.release.clone(), modes })
}

/// Does `work` for each of `all`, as many at a time as there are processors: a machine has one. The results are in order.
fn side_by_side<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(all.len());
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<R>>>> = all.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(one), Some(result)) = (all.get(index), results.get(index)) else { return };
                    let done = work(one);
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
                }
            });
        }
    });
    let taken = |result: Mutex<Option<Result<R>>>| result.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| taken(result).context("a worker ended early")?).collect()
}

fn choose(names: &[String]) -> Result<Vec<&'static Series>> {
    for name in names {
        if !SERIES.iter().any(|series| series.name == name) {
            bail!("there is no kernel {name:?} in the matrix; there are {}", SERIES.map(|series| series.name).join(", "));
        }
    }
    Ok(SERIES.iter().filter(|series| names.is_empty() || names.iter().any(|name| name == series.name)).collect())
}

/// Builds the agent and this program so that they run without libraries.
fn programs() -> Result<[PathBuf; 2]> {
    let target = target()?;
    let build = |package: &str| -> Result<PathBuf> {
        start(
            cargo()?
                .args(["build", "--profile", PROFILE, "--package", package, "--bins", "--target", TARGET, "--target-dir"])
                .arg(&target)
                .env("RUSTFLAGS", FLAGS),
        )?;
        Ok(target.join(TARGET).join(PROFILE).join(package))
    };
    // One after the other: built together, each would get the features that the other asks of shared packages.
    Ok([build("sysops-agent")?, build("xtask")?])
}

/// Beside the other builds, and apart from them, as other flags would build everything anew each time.
fn target() -> Result<PathBuf> {
    let release = release_directory()?;
    Ok(release.parent().context("the directory of builds has no parent")?.join("vm"))
}
