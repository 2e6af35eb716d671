//! Block requests that are slow, and block requests that fail, on loop devices and without a kernel module.
//!
//! Slow: the loop device's backing file lies on a file system that is frozen while the request is under way, so the loop
//! driver blocks between the request's issue and its completion. Failing: the backing file is cut short after the device has
//! taken its size, so the loop driver reads nothing and reports `EIO`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::loop_device::{Freeze, LoopDevice, LoopFilesystem, sparse_file};
use super::poll;
use super::process::KillOnDrop;
use super::undo::Undo;

/// Size of the devices and of the one request.
const DEVICE_BYTES: u64 = 16 << 20;
const REQUEST_BYTES: u64 = 4096;
/// Where the request goes: in the middle, where nobody looks for partition tables.
const REQUEST_AT: u64 = DEVICE_BYTES / 2;

/// A request that was made on purpose.
#[derive(Clone, Debug)]
pub struct Request {
    /// The process that issued it.
    pub pid: u32,
    /// Its command name.
    pub comm: &'static str,
    /// First sector, in units of 512 bytes.
    pub sector: u64,
    /// Length.
    pub bytes: u64,
    /// How long it was held up at least; zero for one that failed.
    pub held: Duration,
}

impl Request {
    fn of(child: &KillOnDrop, held: Duration) -> Self {
        Self { pid: child.pid(), comm: "dd", sector: REQUEST_AT / 512, bytes: REQUEST_BYTES, held }
    }
}

/// A loop device whose writes can be held up.
#[derive(Debug)]
pub struct SlowDevice {
    device: LoopDevice,
    backing: LoopFilesystem,
    undo: Undo,
}

impl SlowDevice {
    /// Makes the device; nothing is slow yet.
    ///
    /// # Errors
    /// If no loop device or file system can be made.
    pub fn attach() -> Result<Self> {
        let mut undo = Undo::new()?;
        let backing = LoopFilesystem::mount(&mut undo)?;
        let file = backing.mount_point.join("disk");
        sparse_file(&file, DEVICE_BYTES)?;
        let device = LoopDevice::attach(&mut undo, &file, false)?;
        Ok(Self { device, backing, undo })
    }

    /// The kernel's name of the device: `loopN`.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// Its number, `major:minor`.
    pub fn major_minor(&self) -> &str {
        &self.device.major_minor
    }

    /// Writes one block and holds the request up for at least `delay` between its issue and its completion.
    ///
    /// # Errors
    /// If the request isn't seen in flight, or fails.
    pub fn write(&mut self, delay: Duration) -> Result<Request> {
        /// Dropped in this order: the thaw must come before the wait for the writer.
        struct Held {
            freeze: Freeze,
            writer: KillOnDrop,
        }
        let freeze = self.backing.freeze(&mut self.undo)?;
        let writer = dd(&[
            "if=/dev/zero".into(),
            to(&self.device.path),
            "oflag=direct".into(),
            format!("seek={}", REQUEST_AT / REQUEST_BYTES),
        ])?;
        let held = Held { freeze, writer };
        poll("the write request in flight", Duration::from_secs(10), || Ok((self.device.in_flight()? > 0).then_some(())))?;
        thread::sleep(delay);
        let Held { freeze, mut writer } = held;
        drop(freeze);
        let status = writer.wait(Duration::from_secs(10))?;
        if !status.success() {
            bail!("the delayed write to {} failed: {status}", self.device.path.display());
        }
        Ok(Request::of(&writer, delay))
    }
}

/// A loop device whose reads fail.
#[derive(Debug)]
pub struct FailingDevice {
    device: LoopDevice,
    _backing: LoopFilesystem,
    _undo: Undo,
}

impl FailingDevice {
    /// Makes the device.
    ///
    /// # Errors
    /// If no loop device or file system can be made.
    pub fn attach() -> Result<Self> {
        let mut undo = Undo::new()?;
        let backing = LoopFilesystem::mount(&mut undo)?;
        let path = backing.mount_point.join("disk");
        let file = sparse_file(&path, DEVICE_BYTES)?;
        // Through the page cache, older kernels answer a short read with zeros; direct I/O gives EIO on all.
        let device = LoopDevice::attach(&mut undo, &path, true)?;
        file.set_len(0).with_context(|| format!("cannot cut {} short", path.display()))?;
        Ok(Self { device, _backing: backing, _undo: undo })
    }

    /// The kernel's name of the device: `loopN`.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// Its number, `major:minor`.
    pub fn major_minor(&self) -> &str {
        &self.device.major_minor
    }

    /// Reads one block, which fails with `EIO`.
    ///
    /// # Errors
    /// If the read succeeds.
    pub fn read(&self) -> Result<Request> {
        let input = format!("if={}", self.device.path.display());
        let mut reader =
            dd(&[input, "of=/dev/null".into(), "iflag=direct".into(), format!("skip={}", REQUEST_AT / REQUEST_BYTES)])?;
        if reader.wait(Duration::from_secs(10))?.success() {
            bail!("a read of {} beyond the end of its backing file succeeded", self.device.path.display());
        }
        Ok(Request::of(&reader, Duration::ZERO))
    }
}

fn to(path: &Path) -> String {
    format!("of={}", path.display())
}

/// Starts `dd` for one request.
fn dd(arguments: &[String]) -> Result<KillOnDrop> {
    let child = Command::new("dd")
        .args(arguments)
        .args([format!("bs={REQUEST_BYTES}"), "count=1".into()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start `dd` (package coreutils)")?;
    Ok(KillOnDrop::new(child))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Trace, needs_root};

    /// `dev` as the block tracepoints print it.
    fn printed(major_minor: &str) -> String {
        major_minor.replace(':', ",")
    }

    #[test]
    fn the_request_takes_as_long_as_it_was_held() {
        if needs_root() {
            return;
        }
        let delay = Duration::from_millis(300);
        let trace = Trace::start(&["block/block_rq_issue", "block/block_rq_complete"]).unwrap();
        let mut device = SlowDevice::attach().unwrap();
        let request = device.write(delay).unwrap();
        let of_request = |event: &str, pid: Option<u32>| {
            let (start, sector) = (format!("{} W", printed(device.major_minor())), format!(" {} + 8 ", request.sector));
            trace
                .wait_for(Duration::from_secs(5), |seen| {
                    seen.event == event
                        && seen.fields.starts_with(&start)
                        && seen.fields.contains(&sector)
                        && pid.is_none_or(|pid| seen.pid == pid)
                })
                .unwrap()
        };
        let issue = of_request("block_rq_issue", Some(request.pid));
        assert_eq!(issue.comm, request.comm);
        let complete = of_request("block_rq_complete", None);
        let latency = Duration::from_nanos(complete.at_ns - issue.at_ns);
        assert!(latency >= delay && latency < delay * 10, "{latency:?}");
        // The device is no worse afterwards.
        device.write(Duration::ZERO).unwrap();
        let path = device.device.path.clone();
        drop(device);
        assert!(
            !super::super::run("losetup", &["--list", "--noheadings", "--output", "BACK-FILE", &path.to_string_lossy()])
                .is_ok_and(|file| file.contains("sysops-fault"))
        );
    }

    #[test]
    fn the_read_completes_with_eio() {
        if needs_root() {
            return;
        }
        let trace = Trace::start(&["block/block_rq_complete"]).unwrap();
        let device = FailingDevice::attach().unwrap();
        let request = device.read().unwrap();
        let (start, end) = (format!("{} R", printed(device.major_minor())), format!("[-{}]", libc::EIO));
        let sector = format!(" {} + 8 ", request.sector);
        trace
            .wait_for(Duration::from_secs(5), |seen| {
                seen.fields.starts_with(&start) && seen.fields.contains(&sector) && seen.fields.ends_with(&end)
            })
            .unwrap();
    }
}
