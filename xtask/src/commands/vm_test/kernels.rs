//! Debian's kernels, by name from the machine's own mirror, unpacked into the user's cache; none is installed.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::debian::{self, Suite, remove};

/// A kernel series, and where Debian has it.
pub struct Series {
    /// The version up to its second number.
    pub name: &'static str,
    /// Places, best first: below `debian` or `debian-security` of the mirror, and the suite.
    suites: &'static [(&'static str, &'static str)],
}

/// The series that the matrix consists of, oldest first.
pub const SERIES: [Series; 4] = [
    Series { name: "5.10", suites: &[("debian-security", "bullseye-security"), ("debian", "bullseye")] },
    Series { name: "6.1", suites: &[("debian", "bookworm")] },
    Series { name: "6.12", suites: &[("debian", "bookworm-backports")] },
    Series { name: "7.2", suites: &[("debian", "trixie-backports")] },
];

/// Debian's smallest build of a kernel: for virtual machines, yet with kprobes, BTF, and the modules that faults need.
const FLAVOUR: &str = "cloud-amd64";

/// A package of a kernel is split in up to four since 6.19.
const PARTS: [&str; 4] = ["image", "binary", "modules", "base"];

/// An unpacked kernel.
pub struct Kernel {
    /// Its series.
    pub series: &'static str,
    /// Its full version, as `uname -r` prints it.
    pub release: String,
    /// The program that is booted.
    pub image: PathBuf,
    /// Where `lib/modules` is.
    pub tree: PathBuf,
}

/// The series' kernel from the cache, or else the newest that Debian has. With `renew`, always that one.
///
/// # Errors
/// When no suite has it, or it is not laid out as Debian lays kernels out.
pub fn fetch(series: &'static Series, renew: bool) -> Result<Kernel> {
    let cache = cache()?;
    let place = cache.join(series.name);
    if renew || !place.exists() {
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        // Unpacked beside its place and then moved, so that a half-unpacked kernel never looks complete.
        let workshop = cache.join(format!(".{}", series.name));
        let mirror = debian::mirror()?;
        let mut failures = Vec::new();
        let unpacked = series.suites.iter().find_map(|(archive, suite)| {
            let mirror = format!("{}/{archive}", mirror.trim_end_matches("/debian"));
            unpack(&workshop, &mirror, suite, series.name)
                .map_err(|error| failures.push(format!("{suite} on {mirror}: {error:#}")))
                .ok()
        });
        let Some((_suite, unpacked)) = unpacked else {
            bail!("kernel {} could not be fetched: {}", series.name, failures.join("; "));
        };
        remove(&place)?;
        fs::rename(&unpacked, &place).with_context(|| format!("cannot move {} to {}", unpacked.display(), place.display()))?;
    }
    find(series.name, &place).with_context(|| format!("{} holds no usable kernel; `--renew` fetches it again", place.display()))
}

/// Downloads the newest kernel of the series and unpacks it; the suite's directory, in which it lies, goes when the suite does.
fn unpack(workshop: &Path, mirror: &str, suite: &str, series: &str) -> Result<(Suite, PathBuf)> {
    let place = workshop.join("unpacked");
    let opened = Suite::open(workshop.to_owned(), mirror, suite)?;
    let names = opened.names("linux-")?;
    let release = newest(series, &names).with_context(|| format!("no kernel {series} in flavour {FLAVOUR} is there"))?;
    for part in PARTS {
        let package = format!("linux-{part}-{release}");
        if names.contains(&package) {
            opened.unpack(&package, &place)?;
        }
    }
    Ok((opened, place))
}

/// The newest release of the series among the names of packages.
fn newest<'a>(series: &str, names: &'a [String]) -> Option<&'a str> {
    let releases = names.iter().filter_map(|name| {
        let release = name.strip_prefix("linux-image-")?;
        let version = release.strip_suffix(FLAVOUR)?.strip_suffix('-')?;
        // `5.10.0-46`, `6.12.95+deb12.1`; not `6.1.0-0.deb11.50`, another suite's kernel in this one's place.
        (version.strip_prefix(series)?.starts_with('.') && !version.contains("-0.")).then_some((version, release))
    });
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    releases.max_by_key(|(version, _)| numbers(version)).map(|(_, release)| release)
}

/// Looks for the parts of an unpacked kernel.
fn find(series: &'static str, place: &Path) -> Result<Kernel> {
    // Since 6.19 everything lies below /usr.
    let tree = [place.to_owned(), place.join("usr")]
        .into_iter()
        .find(|tree| tree.join("lib/modules").is_dir())
        .context("there is no lib/modules")?;
    let release = fs::read_dir(tree.join("lib/modules"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .max()
        .context("lib/modules is empty")?;
    let images = [place.join(format!("boot/vmlinuz-{release}")), tree.join(format!("lib/modules/{release}/vmlinuz"))];
    let image = images.into_iter().find(|image| image.is_file()).context("there is no vmlinuz")?;
    Ok(Kernel { series, release, image, tree })
}

/// Where this user's caches are (XDG Base Directory Specification).
fn cache() -> Result<PathBuf> {
    let home = || env::home_dir().map(|home| home.join(".cache"));
    let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home);
    Ok(caches.context("neither XDG_CACHE_HOME nor HOME is set")?.join("sysops-agent/kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_of_a_series_is_chosen_by_its_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.90+deb12-cloud-amd64-dbg",
            "linux-image-cloud-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(newest("6.1", &names), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(newest("6.12", &names), Some("6.12.90+deb12.1-cloud-amd64"));
        assert_eq!(newest("7.2", &names), None);
    }
}
