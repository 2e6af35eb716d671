//! Programs of the system that the tests against the real kernel and against other tools, the demo and the virtual machines call.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{find_program, is_root, run as start};

/// Programs, and the Debian packages they come in.
const PROGRAMS: [(&str, &str); 21] = [
    ("/usr/lib/systemd/systemd-journal-remote", "systemd-journal-remote"),
    ("df", "coreutils"),
    ("free", "procps"),
    ("fsfreeze", "util-linux"),
    ("iostat", "sysstat"),
    ("ip", "iproute2"),
    ("journalctl", "systemd"),
    ("losetup", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("prometheus", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("promtool", "prometheus"),
    ("ps", "procps"),
    ("python3", "python3"),
    ("rsyslogd", "rsyslog"),
    ("sar", "sysstat"),
    ("ss", "iproute2"),
    ("vmstat", "procps"),
];

/// What virtual machines with other kernels need in addition.
const PROGRAMS_FOR_MACHINES: [(&str, &str); 6] = [
    ("depmod", "kmod"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("tc", "iproute2"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Installs those that are missing, as root through apt.
///
/// # Errors
/// What is missing and how to get it, where that is not possible.
pub fn install() -> Result<String> {
    install_all(&PROGRAMS)
}

/// The same for what virtual machines need.
///
/// # Errors
/// As [`install`].
pub fn install_for_machines() -> Result<String> {
    install_all(&[&PROGRAMS[..], &PROGRAMS_FOR_MACHINES[..]].concat())
}

fn install_all(programs: &[(&str, &str)]) -> Result<String> {
    let missing = missing(programs);
    if !missing.is_empty() {
        let names = missing.join(" ");
        let root = is_root();
        if !root || find_program("apt-get").is_none() {
            let remedy =
                if root { "install them with this distribution's package manager" } else { "`sudo apt-get install` them" };
            bail!("programs of these packages are missing: {names}; {remedy} (the names are Debian's)");
        }
        let apt = || {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
            apt
        };
        start(apt().arg("update"))
            .and_then(|()| start(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing)))
            .with_context(|| format!("the packages {names} could not be installed"))?;
        ensure!(self::missing(programs).is_empty(), "the packages {names} are installed, but their programs are not in reach");
    }
    Ok(programs.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", "))
}

/// The packages of the programs that are not in reach, each once.
fn missing<'a>(programs: &[(&str, &'a str)]) -> Vec<&'a str> {
    let mut packages: Vec<_> =
        programs.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}
