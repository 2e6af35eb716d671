//! What full cycles of all collectors cost on this machine: processor time, allocations, memory. `cargo xtask bench collect` runs
//! it and puts node_exporter beside it.
//!
//! A cycle runs every collector once, also those that the agent runs only each half or full minute. Arguments: the number of
//! cycles, and how many processes are tracked by CPU and by RSS. Prints JSON.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot set itself up shall fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use sysops_agent::collectors::{Batch, COLLECTORS};
use sysops_agent::config::{Config, HostRoots};
use sysops_agent::host::Host;

/// Cycles before anything is counted, in which buffers and tables grow to their size.
const WARM_UP: usize = 20;

/// The system's allocator, with a count of what it is asked for.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size.saturating_sub(layout.size()) as u64, Ordering::Relaxed);
        // SAFETY: as in `dealloc`; the caller's promise about `size` is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, hence from the system's allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocations, their bytes, and processor time of all threads in nanoseconds, since the start.
fn spent() -> [u64; 3] {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap();
    [ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed), nanos]
}

fn main() {
    // `cargo bench` adds arguments of its own that begin with a hyphen.
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let cycles = arguments.first().copied().unwrap_or(100);
    let mut config = Config::default();
    if let Some(tracked) = arguments.get(1) {
        config.collector.process.track_top_n = *tracked;
    }
    let host = Host::new(HostRoots::default());
    let mut collectors: Vec<_> = COLLECTORS.iter().map(|row| (row, (row.build)(&config, &host), [0; 3], 0)).collect();
    for cycle in 0..WARM_UP + cycles {
        for (_, collector, total, series) in &mut collectors {
            let before = spent();
            let mut batch = Batch::new(Instant::now());
            // A process or device that goes away in this moment is no reason to stop.
            let _ = collector.collect(&mut batch);
            *series = batch.samples.len();
            drop(batch);
            if cycle >= WARM_UP {
                for ((total, now), before) in total.iter_mut().zip(spent()).zip(before) {
                    *total += now - before;
                }
            }
        }
    }
    let by_cycle = |total: u64| total as f64 / cycles as f64;
    let collectors: Vec<_> = collectors
        .iter()
        .map(|(row, _, [allocations, bytes, nanos], series)| {
            let interval = (row.interval)(&config).as_secs();
            json!({
                "name": row.name,
                "interval_secs": interval,
                "series": series,
                "cpu_us": by_cycle(*nanos) / 1e3,
                "allocations": by_cycle(*allocations),
                "allocated_bytes": by_cycle(*bytes),
            })
        })
        .collect();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    println!("{}", json!({ "cycles": cycles, "rss_kib": kib, "collectors": collectors }));
}
