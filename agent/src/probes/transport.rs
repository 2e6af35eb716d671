//! The way of records out of the kernel: a BPF ring buffer, or a perf event array where the kernel has no ring buffers.
//!
//! Both are read the same way, one record at a time. What differs: a ring buffer is one for all CPUs and keeps the order of
//! events; a perf event array is one buffer for each CPU, and the order between CPUs is not kept. Nothing here knows what a
//! record means.

use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Map, MapData, MapType, PerfEventArray, RingBuf};
use aya::sys::is_map_supported;
use aya::util::online_cpus;

use super::attach::explain;
use super::{Row, Unavailable};
use crate::config;

/// The least room of one CPU's buffer in bytes: about sixty records.
const LEAST_BY_CPU: usize = 8 << 10;

/// Which way records travel, before there is anything to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_MAP_TYPE_RINGBUF`
    RingBuffer,
    /// `BPF_MAP_TYPE_PERF_EVENT_ARRAY`
    PerfArray,
}

impl Kind {
    /// The one that the configuration asks for, or the best that this kernel has; and if so, why not the ring buffer.
    pub fn choose(setting: config::Transport) -> (Self, Option<Unavailable>) {
        match setting {
            config::Transport::Ringbuf => (Self::RingBuffer, None),
            config::Transport::Perf => (Self::PerfArray, None),
            config::Transport::Auto => match is_map_supported(MapType::RingBuf) {
                Ok(false) => {
                    let why = "this kernel has no BPF ring buffer";
                    (Self::PerfArray, Some(Unavailable::new(why, "nothing to do: the perf event array carries the same events")))
                }
                // Where BPF is not allowed at all, loading the probe says so.
                Ok(true) | Err(_) => (Self::RingBuffer, None),
            },
        }
    }

    /// What to call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingBuffer => "ring buffer",
            Self::PerfArray => "perf event array",
        }
    }
}

/// One probe's way to user space.
pub enum Transport {
    /// One buffer for all CPUs.
    RingBuffer(RingBuf<MapData>),
    /// One buffer for each CPU.
    PerfArray(PerfBuffers),
}

/// The buffers of a perf event array.
pub struct PerfBuffers {
    by_cpu: Vec<PerfEventArrayBuffer<MapData>>,
    bytes: u64,
    /// Whose turn it is, so that a busy CPU does not keep the others waiting.
    turn: usize,
    lost: u64,
}

impl Transport {
    /// Opens the map `EVENTS` of a probe's object. A CPU that comes online later has no buffer in a perf event array; its
    /// records are lost, and counted.
    ///
    /// # Errors
    /// The map is of another kind, or the kernel refuses the buffers: what was tried, and its error.
    pub fn open(kind: Kind, events: Map, row: &Row) -> Result<Self, Unavailable> {
        let failed = |error| explain(&format!("open the {} of probe {}", kind.name(), row.name), &error);
        Ok(match kind {
            Kind::RingBuffer => Self::RingBuffer(RingBuf::try_from(events).map_err(failed)?),
            Kind::PerfArray => Self::PerfArray(PerfBuffers::open(PerfEventArray::try_from(events).map_err(failed)?, row)?),
        })
    }

    /// Which one it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::RingBuffer(_) => Kind::RingBuffer,
            Self::PerfArray(_) => Kind::PerfArray,
        }
    }

    /// Memory of the buffers in bytes that the kernel does not account to the map.
    pub const fn buffer_bytes(&self) -> u64 {
        match self {
            Self::RingBuffer(_) => 0,
            Self::PerfArray(buffers) => buffers.bytes,
        }
    }

    /// What becomes readable when records arrive.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let (ring, buffers) = match self {
            Self::RingBuffer(ring) => (Some(ring.as_fd()), &[][..]),
            Self::PerfArray(buffers) => (None, buffers.by_cpu.as_slice()),
        };
        ring.into_iter().chain(buffers.iter().map(|buffer| buffer.as_fd()))
    }

    /// Replaces `record` by the next one and makes room for another in the kernel; `false` where there is none.
    pub fn next(&mut self, record: &mut Vec<u8>) -> bool {
        record.clear();
        match self {
            Self::RingBuffer(ring) => match ring.next() {
                Some(item) => {
                    record.extend_from_slice(&item);
                    true
                }
                None => false,
            },
            Self::PerfArray(buffers) => buffers.next(record),
        }
    }

    /// Losses that the transport itself told of, in records.
    ///
    /// A kernel that tells its programs, too, has counted them there already. One that does not (before 5.1) tells here, and
    /// only with the first record that finds room again.
    pub const fn told_lost(&self) -> u64 {
        match self {
            Self::RingBuffer(_) => 0,
            Self::PerfArray(buffers) => buffers.lost,
        }
    }
}

impl PerfBuffers {
    fn open(mut array: PerfEventArray<MapData>, row: &Row) -> Result<Self, Unavailable> {
        let cpus = online_cpus().map_err(|(file, error)| explain(&format!("tell which CPUs are online from {file}"), &error))?;
        let page = rustix::param::page_size();
        let pages = pages_by_cpu(row.ring_bytes as usize, cpus.len(), page);
        let mut by_cpu = Vec::with_capacity(cpus.len());
        for cpu in cpus {
            let failed = |error| explain(&format!("open the perf buffer of probe {} on CPU {cpu}", row.name), &error);
            by_cpu.push(array.open(cpu, Some(pages)).map_err(failed)?);
        }
        // A page before the data tells reader and writer of each other.
        let bytes = (by_cpu.len() * (pages + 1) * page) as u64;
        Ok(Self { by_cpu, bytes, turn: 0, lost: 0 })
    }

    fn next(&mut self, record: &mut Vec<u8>) -> bool {
        for _ in 0..self.by_cpu.len() {
            self.turn = (self.turn + 1) % self.by_cpu.len();
            let Some(buffer) = self.by_cpu.get_mut(self.turn) else { return false };
            // Leaving after each record hands its room back at once.
            let found = buffer.try_fold((), |(), event| match event {
                PerfEvent::Sample { head, tail } => {
                    record.extend_from_slice(head);
                    record.extend_from_slice(tail);
                    ControlFlow::Break(())
                }
                PerfEvent::Lost { count } => {
                    self.lost = self.lost.saturating_add(count);
                    ControlFlow::Continue(())
                }
            });
            if found.is_break() {
                return true;
            }
        }
        false
    }
}

/// Pages of each CPU's buffer: the room of the ring buffer shared out over the CPUs, but not less than [`LEAST_BY_CPU`]; a
/// power of two, as perf_event_open(2) asks for.
fn pages_by_cpu(ring_bytes: usize, cpus: usize, page: usize) -> usize {
    let share = (ring_bytes / cpus.max(1)).max(LEAST_BY_CPU).div_ceil(page.max(1)).max(1);
    1 << share.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_share_the_room_of_the_ring_buffer() {
        assert_eq!(pages_by_cpu(128 << 10, 2, 4096), 16);
        assert_eq!(pages_by_cpu(128 << 10, 12, 4096), 2);
        assert_eq!(pages_by_cpu(16 << 10, 256, 4096), 2);
        assert_eq!(pages_by_cpu(16 << 10, 1, 64 << 10), 1);
    }

    #[test]
    fn what_the_configuration_asks_for_is_chosen_unseen() {
        assert_eq!(Kind::choose(config::Transport::Ringbuf), (Kind::RingBuffer, None));
        assert_eq!(Kind::choose(config::Transport::Perf), (Kind::PerfArray, None));
    }
}
