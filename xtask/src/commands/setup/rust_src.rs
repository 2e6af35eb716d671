//! The source of the standard library, from which `core` is built for the BPF target.
//!
//! `rustup component add rust-src` is the normal way. Where rustup cannot download, a Debian machine may still reach its
//! mirror: Debian packages the same source for the same version of Rust, in suites newer than most machines run. That package
//! is downloaded, and its files are put where rustup would have put them; nothing of the system changes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{find_program, output, root, run as start, sysroot, toolchain_version};

/// Suites of Debian that have recent versions of Rust, the smallest index first.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];

/// Signs all suites of Debian; of the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    for program in ["apt-get", "dpkg"] {
        ensure!(find_program(program).is_some(), "this machine has no {program}");
    }
    ensure!(Path::new(KEYRING).exists(), "{KEYRING} is missing (package debian-archive-keyring)");
    let parent = place.parent().context("the compiler's directory has no parent")?;
    // On the same file system as the place, so that the move is one step and a half-unpacked tree never looks complete.
    let workshop = Workshop::new(parent.join(".rust-src-download"))?;
    let mirror = mirror()?;
    let package = SUITES
        .iter()
        .find_map(|suite| match workshop.download(&mirror, suite, version) {
            Ok(package) => Some(package),
            Err(error) => {
                eprintln!("{suite}: {error:#}");
                None
            }
        })
        .with_context(|| format!("none of {} on {mirror} has it", SUITES.join(", ")))?;
    let unpacked = workshop.0.join("unpacked");
    start(Command::new("dpkg").arg("--extract").arg(&package).arg(&unpacked))?;
    let source = unpacked.join(format!("usr/src/rustc-{version}"));
    // Only the library is needed; the compiler's own source comes in the same package.
    fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
    let (from, to) = (source.join("library"), place.join("library"));
    fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// The Debian mirror that this machine uses.
fn mirror() -> Result<String> {
    let listed = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
    ]))?;
    let mirror = listed.lines().next().context("apt on this machine knows no mirror of Debian")?;
    Ok(mirror.to_owned())
}

/// A directory for what apt needs to keep, away from the system's own state; removed at the end.
struct Workshop(PathBuf);

impl Workshop {
    fn new(directory: PathBuf) -> Result<Self> {
        remove(&directory)?;
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        }
        Ok(Self(directory))
    }

    /// Downloads the package of one suite.
    fn download(&self, mirror: &str, suite: &str, version: &str) -> Result<PathBuf> {
        let list = self.0.join("sources.list");
        fs::write(&list, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .with_context(|| format!("cannot write {}", list.display()))?;
        start(self.apt(&list).args(["update"]))?;
        start(self.apt(&list).args(["download", &format!("rust-src={version}*")]))?;
        let package = fs::read_dir(&self.0)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        package.with_context(|| format!("apt-get downloaded no package to {}", self.0.display()))
    }

    fn apt(&self, list: &Path) -> Command {
        let option = |key: &str, path: &Path| format!("{key}={}", path.display());
        let mut apt = Command::new("apt-get");
        apt.current_dir(&self.0).arg("-q");
        for setting in [
            option("Dir::Etc::sourcelist", list),
            "Dir::Etc::sourceparts=/dev/null".into(),
            option("Dir::State::lists", &self.0.join("lists")),
            option("Dir::Cache", &self.0.join("cache")),
            // The user `_apt` has no business in a home directory; the files are checked against the signed index all the same.
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
        ] {
            apt.args(["-o", &setting]);
        }
        apt
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("warning: {error:#}");
        }
    }
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
