//! A SCSI disk that exists in memory alone (`scsi_debug`), and can be made slow or faulty.
//!
//! For kernels that bring the module, which few hosts load: so its requests are not those of anybody else. One at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::process::KillOnDrop;
use super::trace::write;
use super::undo::Undo;
use super::{poll, run};

/// The module's parameters that can be changed while it runs (Documentation/scsi/scsi_debug, sg.danny.cz/sg/scsi_debug26.html).
const DRIVER: &str = "/sys/bus/pseudo/drivers/scsi_debug";
/// The bit of `opts` that makes reads of sectors 0x1234 to 0x123d fail with a medium error.
const MEDIUM_ERROR: &str = "2";
/// First sector that fails.
const BAD_SECTOR: u64 = 0x1238;
const REQUEST_BYTES: u64 = 4096;

/// The disk. It goes when it is dropped.
#[derive(Debug)]
pub struct ScsiDisk {
    name: String,
    _undo: Undo,
}

/// A request that was made on purpose.
#[derive(Clone, Debug)]
pub struct ScsiRequest {
    /// The process that issued it.
    pub pid: u32,
    /// Its command name.
    pub comm: &'static str,
    /// First sector, in units of 512 bytes.
    pub sector: u64,
}

impl ScsiDisk {
    /// Loads the module, which brings one disk of 8 MiB.
    ///
    /// # Errors
    /// If the kernel lacks the module, or it is in use.
    pub fn attach() -> Result<Self> {
        if Path::new(DRIVER).exists() {
            bail!("the module scsi_debug is loaded already");
        }
        let before = disks()?;
        let mut undo = Undo::new()?;
        run("modprobe", &["sd_mod"])?;
        run("modprobe", &["scsi_debug", "dev_size_mb=8", "delay=0"])?;
        undo.push("for i in 1 2 3 4 5 6 7 8; do modprobe -r scsi_debug 2>/dev/null && break; sleep 0.2; done")?;
        let name = poll("a disk of scsi_debug", Duration::from_secs(10), || {
            Ok(disks()?.into_iter().find(|name| !before.contains(name) && Path::new("/dev").join(name).exists()))
        })?;
        Ok(Self { name, _undo: undo })
    }

    /// The kernel's name of the disk: `sda`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one block that takes at least `delay`, to the millisecond.
    ///
    /// # Errors
    /// If the read fails.
    pub fn slow_read(&self, delay: Duration) -> Result<ScsiRequest> {
        write(&Path::new(DRIVER).join("ndelay"), &delay.as_nanos().min(999_999_999).to_string())?;
        let read = self.read(0);
        write(&Path::new(DRIVER).join("ndelay"), "0")?;
        let (request, succeeded) = read?;
        if !succeeded {
            bail!("a slow read of {} failed", self.name);
        }
        Ok(request)
    }

    /// Reads a bad block, which fails.
    ///
    /// # Errors
    /// If the read succeeds.
    pub fn failing_read(&self) -> Result<ScsiRequest> {
        write(&Path::new(DRIVER).join("opts"), MEDIUM_ERROR)?;
        let read = self.read(BAD_SECTOR);
        write(&Path::new(DRIVER).join("opts"), "0")?;
        let (request, succeeded) = read?;
        if succeeded {
            bail!("a read of a bad block of {} succeeded", self.name);
        }
        Ok(request)
    }

    fn read(&self, sector: u64) -> Result<(ScsiRequest, bool)> {
        let device = PathBuf::from("/dev").join(&self.name);
        let child = Command::new("dd")
            .args([
                format!("if={}", device.display()),
                "of=/dev/null".into(),
                "iflag=direct".into(),
                format!("bs={REQUEST_BYTES}"),
                "count=1".into(),
                format!("skip={}", sector * 512 / REQUEST_BYTES),
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start `dd` (package coreutils)")?;
        let mut reader = KillOnDrop::new(child);
        let status = reader.wait(Duration::from_secs(60))?;
        Ok((ScsiRequest { pid: reader.pid(), comm: "dd", sector }, status.success()))
    }
}

/// The SCSI disks that there are.
fn disks() -> Result<Vec<String>> {
    let entries = fs::read_dir("/sys/block").context("cannot list /sys/block")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with("sd")).collect())
}
