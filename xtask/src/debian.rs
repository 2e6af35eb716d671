//! Single packages of any suite of Debian, downloaded from the machine's own mirror and unpacked; nothing is installed.
//!
//! apt does it, with a source list and state of its own, so that the system's own list and state stay as they are and every file
//! is checked against Debian's signed index.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result, ensure};

use crate::workspace::{find_program, output, run as start};

/// Signs all suites of Debian; of the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The Debian mirror that this machine uses.
///
/// # Errors
/// When this machine is no Debian, or has none.
pub fn mirror() -> Result<String> {
    for program in ["apt-get", "dpkg"] {
        ensure!(find_program(program).is_some(), "this machine has no {program}");
    }
    ensure!(Path::new(KEYRING).exists(), "{KEYRING} is missing (package debian-archive-keyring)");
    let listed = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
        "Label: Debian",
    ]))?;
    let mirror = listed.lines().next().context("apt on this machine knows no mirror of Debian")?;
    Ok(mirror.trim_end_matches('/').to_owned())
}

/// A suite of Debian: its index and what is downloaded from it, in a directory that is removed at the end.
pub struct Suite {
    directory: PathBuf,
}

impl Suite {
    /// Reads the index of `suite` on `mirror`; `directory` is made, and replaced where it exists.
    ///
    /// # Errors
    /// When the mirror does not have the suite, or the index is not signed by Debian.
    pub fn open(directory: PathBuf, mirror: &str, suite: &str) -> Result<Self> {
        remove(&directory)?;
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        }
        let opened = Self { directory };
        let list = opened.list();
        fs::write(&list, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            .with_context(|| format!("cannot write {}", list.display()))?;
        start(opened.apt("apt-get").arg("update"))?;
        Ok(opened)
    }

    /// The names of its packages that begin with `prefix`.
    ///
    /// # Errors
    /// When apt-cache fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads one package, a name or `NAME=VERSION` with a wildcard, and unpacks it into `place`.
    ///
    /// # Errors
    /// When the suite does not have it.
    pub fn unpack(&self, package: &str, place: &Path) -> Result<()> {
        start(self.apt("apt-get").args(["download", package]))?;
        let file = fs::read_dir(&self.directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get downloaded no package to {}", self.directory.display()))?;
        start(Command::new("dpkg").arg("--extract").arg(&file).arg(place))?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    fn list(&self) -> PathBuf {
        self.directory.join("sources.list")
    }

    fn apt(&self, program: &str) -> Command {
        let option = |key: &str, path: &Path| format!("{key}={}", path.display());
        let mut apt = Command::new(program);
        apt.current_dir(&self.directory).arg("-q");
        for setting in [
            option("Dir::Etc::sourcelist", &self.list()),
            "Dir::Etc::sourceparts=/dev/null".into(),
            option("Dir::State::lists", &self.directory.join("lists")),
            option("Dir::Cache", &self.directory.join("cache")),
            // The user `_apt` has no business in a home directory; the files are checked against the signed index all the same.
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
        ] {
            apt.args(["-o", &setting]);
        }
        apt
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.directory) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Removes a directory with everything in it, if it is there.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
