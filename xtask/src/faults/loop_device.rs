//! Loop devices and small ext4 file systems on them: disks that may be frozen, starved and broken.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::undo::{Undo, quoted};
use super::{run, unique};

/// Size of the file systems: little, but enough that `mkfs.ext4` has room.
const FILESYSTEM_BYTES: u64 = 32 << 20;

/// A loop device over a file.
#[derive(Clone, Debug)]
pub(super) struct LoopDevice {
    /// `/dev/loopN`
    pub(super) path: PathBuf,
    /// `loopN`
    pub(super) name: String,
    /// `7:N`
    pub(super) major_minor: String,
}

impl LoopDevice {
    /// Attaches a free loop device to `file`. With `direct`, requests bypass the page cache of the backing file system.
    pub(super) fn attach(undo: &mut Undo, file: &Path, direct: bool) -> Result<Self> {
        let mode = if direct { "--direct-io=on" } else { "--direct-io=off" };
        let path = PathBuf::from(run("losetup", &["--find", "--show", mode, &file.to_string_lossy()])?);
        undo.push(format_args!("losetup --detach {}", quoted(&path)))?;
        let name = path.file_name().context("losetup printed no device")?.to_string_lossy().into_owned();
        let attribute = format!("/sys/block/{name}/dev");
        let major_minor =
            fs::read_to_string(&attribute).with_context(|| format!("cannot read {attribute}"))?.trim_end().to_owned();
        Ok(Self { path, name, major_minor })
    }

    /// Requests that the device has taken and not finished (Documentation/block/stat.rst, "inflight").
    pub(super) fn in_flight(&self) -> Result<u64> {
        let path = format!("/sys/block/{}/inflight", self.name);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(text.split_whitespace().filter_map(|number| number.parse::<u64>().ok()).sum())
    }
}

/// A mounted ext4 file system on a loop device.
#[derive(Debug)]
pub(super) struct LoopFilesystem {
    pub(super) mount_point: PathBuf,
}

impl LoopFilesystem {
    /// Makes and mounts one.
    pub(super) fn mount(undo: &mut Undo) -> Result<Self> {
        let directory = undo.directory()?;
        let (image, mount_point) = (directory.join("image"), directory.join("mount"));
        sparse_file(&image, FILESYSTEM_BYTES)?;
        fs::create_dir(&mount_point).with_context(|| format!("cannot make {}", mount_point.display()))?;
        // Without a journal nothing but the faulty writer itself is held up by a freeze.
        run("mkfs.ext4", &["-q", "-O", "^has_journal", &image.to_string_lossy()])?;
        let device = LoopDevice::attach(undo, &image, false)?;
        run("mount", &["-t", "ext4", &device.path.to_string_lossy(), &mount_point.to_string_lossy()])?;
        let quoted = quoted(&mount_point);
        undo.push(format_args!("umount {quoted} || umount -l {quoted}"))?;
        Ok(Self { mount_point })
    }

    /// Lets every write wait, from now until the guard is dropped.
    pub(super) fn freeze(&self, undo: &mut Undo) -> Result<Freeze> {
        undo.push(format_args!("fsfreeze --unfreeze {} 2>/dev/null", quoted(&self.mount_point)))?;
        run("fsfreeze", &["--freeze", &self.mount_point.to_string_lossy()])?;
        Ok(Freeze { mount_point: self.mount_point.clone() })
    }
}

/// A freeze that ends when it is dropped. Whoever waits for the file system must be dropped later than this.
#[derive(Debug)]
pub(super) struct Freeze {
    mount_point: PathBuf,
}

impl Drop for Freeze {
    fn drop(&mut self) {
        if let Err(error) = run("fsfreeze", &["--unfreeze", &self.mount_point.to_string_lossy()]) {
            eprintln!("cannot thaw {}: {error:#}; do it by hand, or its writers hang for ever", self.mount_point.display());
        }
    }
}

/// Makes a file of `bytes` bytes that takes no room yet.
pub(super) fn sparse_file(path: &Path, bytes: u64) -> Result<File> {
    let made = File::create(path).and_then(|file| file.set_len(bytes).map(|()| file));
    made.with_context(|| format!("cannot make {} with {bytes} bytes", path.display()))
}

/// A sound and fast disk in memory, to put a load on.
#[derive(Debug)]
pub struct RamDisk {
    device: LoopDevice,
    _undo: Undo,
}

impl RamDisk {
    /// Makes one of `bytes` bytes, all of them written once.
    ///
    /// # Errors
    /// If there is no tmpfs at /dev/shm, or no free loop device.
    pub fn attach(bytes: u64) -> Result<Self> {
        let mut undo = Undo::new()?;
        let image = Path::new("/dev/shm").join(unique("sysops-fault"));
        undo.push(format_args!("rm -f {}", quoted(&image)))?;
        let mut file = sparse_file(&image, bytes)?;
        std::io::copy(&mut std::io::repeat(0x5a).take(bytes), &mut file)
            .with_context(|| format!("cannot fill {}", image.display()))?;
        let device = LoopDevice::attach(&mut undo, &image, false)?;
        Ok(Self { device, _undo: undo })
    }

    /// `/dev/loopN`
    pub fn path(&self) -> &Path {
        &self.device.path
    }
}
