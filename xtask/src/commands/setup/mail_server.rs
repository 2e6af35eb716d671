//! The mail server that tests send to: Debian's exim4, unpacked into this user's cache with the libraries that the machine lacks.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::mail_server::{PROGRAM, directory};

use crate::debian::remove;
use crate::workspace::{find_program, is_root, run as start};

const PACKAGE: &str = "exim4-daemon-light";

/// Downloads and unpacks it, where it is missing; nothing is installed.
///
/// # Errors
/// What is missing, where that is not possible.
pub fn unpack() -> Result<String> {
    let directory = directory().context("neither XDG_CACHE_HOME nor HOME is set")?;
    if directory.join(PROGRAM).is_file() {
        return Ok("exim4".into());
    }
    if !is_root() || ["apt-get", "dpkg"].iter().any(|program| find_program(program).is_none()) {
        bail!("the mail server for tests is missing; on Debian and its relatives, as root, {PACKAGE} is unpacked for them");
    }
    let next = directory.with_extension("next");
    remove(&next)?;
    let downloads = next.join("cache");
    fs::create_dir_all(downloads.join("archives/partial")).with_context(|| format!("cannot create {}", downloads.display()))?;
    start(Command::new("apt-get").args(["-q", "update"]))?;
    start(
        Command::new("apt-get")
            .args(["-q", "install", "--download-only", "--reinstall", "--yes", "--no-install-recommends", "-o"])
            .arg(format!("Dir::Cache={}", downloads.display()))
            // The user `_apt` has no business in a home directory; the files are checked against the signed index all the same.
            .args(["-o", "APT::Sandbox::User=root", PACKAGE]),
    )?;
    for file in fs::read_dir(downloads.join("archives"))?.flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            start(Command::new("dpkg").arg("--extract").arg(&file).arg(&next))?;
        }
    }
    remove(&downloads)?;
    remove(&directory)?;
    fs::rename(&next, &directory).with_context(|| format!("cannot move {} to {}", next.display(), directory.display()))?;
    Ok("exim4".into())
}
