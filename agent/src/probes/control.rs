//! What others want of the reader, and what the probes cost: shared between threads, without a queue.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::PROBES;

// One bit a probe.
const _: () = assert!(PROBES.len() <= 32);

/// The share of BPF programs where the kernel does not tell.
const UNKNOWN: u64 = u64::MAX;

/// Tells the reader what to do, from another thread.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

struct Shared {
    wake: OwnedFd,
    stop: AtomicBool,
    /// Bit n is set where the row n of [`PROBES`] is to be out of the kernel.
    suspended: AtomicU32,
    one_in: AtomicU32,
    map_bytes: AtomicU64,
    /// Millionths of one core.
    program_ppm: AtomicU64,
}

impl Control {
    /// For a reader that goes on, with all its probes, all of whose events count.
    ///
    /// # Errors
    /// The system is out of file descriptors.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            suspended: AtomicU32::new(0),
            one_in: AtomicU32::new(1),
            map_bytes: AtomicU64::new(0),
            program_ppm: AtomicU64::new(UNKNOWN),
        })))
    }

    /// Ends the reader.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Has the probes of these names out of the kernel and all others in it, and those that can look at one event in `one_in`.
    pub fn shed(&self, suspended: &[&str], one_in: u32) {
        let bits = (0u32..).zip(PROBES).filter(|(_, row)| suspended.contains(&row.name)).map(|(bit, _)| 1 << bit).sum();
        let before = (self.0.suspended.swap(bits, Ordering::AcqRel), self.0.one_in.swap(one_in, Ordering::AcqRel));
        if before != (bits, one_in) {
            self.wake();
        }
    }

    /// Memory of the BPF maps of all attached probes, in bytes.
    pub fn map_bytes(&self) -> u64 {
        self.0.map_bytes.load(Ordering::Relaxed)
    }

    /// Time of all BPF programs in percent of one core; `None` where the kernel does not tell.
    pub fn program_percent(&self) -> Option<f64> {
        let ppm = self.0.program_ppm.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a share of a few thousand cores at most")]
        (ppm != UNKNOWN).then(|| ppm as f64 / 1e4)
    }

    pub(super) fn stopped(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }

    pub(super) fn suspended(&self, row: &'static str) -> bool {
        let bits = self.0.suspended.load(Ordering::Acquire);
        (0u32..).zip(PROBES).any(|(bit, known)| known.name == row && bits & (1 << bit) != 0)
    }

    pub(super) fn one_in(&self) -> u32 {
        self.0.one_in.load(Ordering::Acquire)
    }

    pub(super) fn tell_map_bytes(&self, map_bytes: u64) {
        self.0.map_bytes.store(map_bytes, Ordering::Relaxed);
    }

    pub(super) fn tell_program_ppm(&self, ppm: u64) {
        self.0.program_ppm.store(ppm, Ordering::Relaxed);
    }

    /// What becomes readable when there is something new here.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }

    /// Makes it readable no more.
    pub(super) fn heard(&self) {
        // It fails where nothing was written, which is as good.
        let _ = rustix::io::read(&self.0.wake, &mut [0; 8]);
    }

    fn wake(&self) {
        // The only failure is a counter that is full, and then the reader has been told.
        let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
    }
}
