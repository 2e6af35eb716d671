//! The root file system of a virtual machine: the agent, this program, the host's own tools with their libraries, and modules.
//!
//! Everything lies in memory and comes in one archive beside the kernel (Documentation/driver-api/early-userspace/buffer-format.rst),
//! so there is no disk image to make, to mount or to clean up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::kernels::Kernel;
use crate::workspace::{find_program, output};

/// Programs that the faults call.
const PROGRAMS: [&str; 17] = [
    "cat",
    "dd",
    "fsfreeze",
    "ip",
    "losetup",
    "mkfs.ext4",
    "modprobe",
    "mount",
    "nft",
    "rm",
    "rmdir",
    "setpriv",
    "sh",
    "sleep",
    "tail",
    "tc",
    "umount",
];

/// Modules that the faults need, where the kernel does not have them built in.
const MODULES: [&str; 12] = [
    "ext4",
    "crc32c_generic",
    "libcrc32c",
    "loop",
    "nf_tables",
    "nft_numgen",
    "null_blk",
    "sch_netem",
    "scsi_debug",
    "sd_mod",
    "veth",
    "configfs",
];

/// What an archive holds, by its path without the leading `/`.
#[derive(Default)]
pub struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
}

enum Entry {
    Directory,
    Program(Vec<u8>),
    Link(PathBuf),
}

/// File types and permissions (inode(7)).
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Initramfs {
    /// The parts that are the same for every kernel: `programs` into `/bin`, and the host's tools.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn new(programs: &[&Path]) -> Result<Self> {
        let mut made = Self::default();
        for directory in ["dev", "proc", "sys", "run", "tmp", "var/lib", "etc"] {
            made.directory(Path::new(directory));
        }
        // One directory for programs, under all its names.
        for name in ["sbin", "usr/bin", "usr/sbin"] {
            made.insert(Path::new(name), Entry::Link("/bin".into()));
        }
        for program in programs {
            made.program(Path::new(program.file_name().context("a program without a name")?), program)?;
        }
        for name in PROGRAMS {
            let path = find_program(name).with_context(|| format!("{name} is not in reach; `cargo xtask setup` installs it"))?;
            made.program(Path::new(name), &path)?;
        }
        Ok(made)
    }

    /// The same with the kernel's modules.
    ///
    /// # Errors
    /// When a module cannot be read, or `depmod` fails.
    pub fn with_modules(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        let mut modules = Self::default();
        // Indexes of all modules, of which only some are there: loading one that is not fails as if there were no such module.
        let staging = tempfile::tempdir().context("cannot make a directory for modules")?;
        let (from, to) =
            [kernel.tree.as_path(), staging.path()].map(|tree| tree.join("lib/modules").join(&kernel.release)).into();
        for module in wanted(&from, kernel)? {
            let plain = module.with_extension("").with_extension("ko");
            let target = to.join(&plain);
            fs::create_dir_all(target.parent().unwrap_or(&to)).context("cannot make a directory for modules")?;
            fs::write(&target, uncompressed(&from.join(&module))?)
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
        for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            if from.join(index).exists() {
                fs::copy(from.join(index), to.join(index)).with_context(|| format!("cannot copy {index}"))?;
            }
        }
        depmod(staging.path(), &kernel.release)?;
        modules.tree(&to, &Path::new("lib/modules").join(&kernel.release))?;
        let all = self.entries.iter().chain(&modules.entries).collect::<BTreeMap<_, _>>();
        for (number, (path, entry)) in all.into_iter().enumerate() {
            let (mode, bytes) = match entry {
                Entry::Directory => (DIRECTORY, &[][..]),
                Entry::Program(bytes) => (PROGRAM, &bytes[..]),
                Entry::Link(target) => (LINK, target.as_os_str().as_bytes()),
            };
            append(&mut archive, number, mode, path.as_os_str().as_bytes(), bytes)?;
        }
        append(&mut archive, 0, 0, b"TRAILER!!!", &[])?;
        Ok(archive)
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    fn directory(&mut self, path: &Path) {
        for directory in path.ancestors().filter(|directory| !directory.as_os_str().is_empty()) {
            self.entries.entry(directory.to_owned()).or_insert(Entry::Directory);
        }
    }

    /// A program below `/bin`, and the libraries that it is linked to where the dynamic loader will look for them.
    fn program(&mut self, name: &Path, path: &Path) -> Result<()> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        self.insert(&Path::new("bin").join(name), Entry::Program(read(path)?));
        for library in libraries(path)? {
            let place = library.strip_prefix("/").unwrap_or(&library);
            if !self.entries.contains_key(place) {
                self.insert(place, Entry::Program(read(&library)?));
            }
        }
        Ok(())
    }

    fn tree(&mut self, from: &Path, to: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
            let path = entry?.path();
            let place = to.join(path.file_name().unwrap_or_default());
            if path.is_dir() {
                self.tree(&path, &place)?;
            } else {
                let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                self.insert(&place, Entry::Program(bytes));
            }
        }
        Ok(())
    }
}

/// One member of the archive, in the format `newc`.
fn append(archive: &mut Vec<u8>, number: usize, mode: u32, name: &[u8], bytes: &[u8]) -> Result<()> {
    let size = u32::try_from(bytes.len()).context("a file is too big for the archive")?;
    let fields = [u32::try_from(number)?, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, u32::try_from(name.len() + 1)?, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(name);
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(bytes);
    pad(archive);
    Ok(())
}

/// The libraries of a program, and the dynamic loader itself; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output().context("cannot start `ldd` (package libc-bin)")?;
    // It fails for a static program, and says so.
    let text = String::from_utf8_lossy(&listed.stdout);
    ensure!(!text.contains("not found"), "{} lacks a library: {text}", program.display());
    Ok(text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)).collect())
}

/// The paths below `directory` of the wanted modules and of all that they depend on.
fn wanted(directory: &Path, kernel: &Kernel) -> Result<BTreeSet<PathBuf>> {
    if !directory.join("modules.dep").exists() {
        depmod(&kernel.tree, &kernel.release)?;
    }
    let path = directory.join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_wanted = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split_once(".ko").is_some_and(|(name, _)| MODULES.contains(&name.replace('-', "_").as_str()))
    };
    let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(module, _)| is_wanted(module));
    Ok(lines.flat_map(|(module, needed)| std::iter::once(module).chain(needed.split_whitespace())).map(PathBuf::from).collect())
}

/// Makes the indexes of modules, as a kernel's installation does.
fn depmod(tree: &Path, release: &str) -> Result<()> {
    let depmod = find_program("depmod").context("depmod is not in reach (package kmod)")?;
    output(Command::new(depmod).arg("-b").arg(tree).arg(release)).map(drop)
}

/// A module as the kernel takes it, whatever the modprobe of this host was built to read.
fn uncompressed(module: &Path) -> Result<Vec<u8>> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(module).with_context(|| format!("cannot read {}", module.display())),
    };
    let unpacked = Command::new(program)
        .args(["--decompress", "--stdout", "--quiet"])
        .arg(module)
        .output()
        .with_context(|| format!("cannot start `{program}`, which unpacks modules"))?;
    ensure!(unpacked.status.success(), "`{program}` cannot unpack {}", module.display());
    Ok(unpacked.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_counted() {
        let mut archive = Vec::new();
        append(&mut archive, 7, PROGRAM, b"bin/x", b"hello").unwrap();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8(archive).unwrap();
        assert!(text.starts_with("07070100000007000081ed"), "{text}");
        assert_eq!(&text[54..62], "00000005", "size");
        assert_eq!(&text[94..102], "00000006", "length of the name with its NUL");
        assert_eq!(&text[110..], "bin/x\0hello\0\0\0");
    }

    #[test]
    fn a_directory_comes_before_what_is_in_it() {
        let mut made = Initramfs::default();
        made.insert(Path::new("a/b/c"), Entry::Link("x".into()));
        let paths: Vec<_> = made.entries.keys().map(|path| path.to_string_lossy().into_owned()).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c"]);
    }
}
