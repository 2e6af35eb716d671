//! Slow requests as far as `/proc/diskstats` shows them: means above the limit, and requests that do not end.
//!
//! All devices whose requests the kernel times are looked at, loop devices included. A mean is over the requests that completed
//! since the last run, from when each was made, so it holds the time in the queue; one slow request among many fast ones does
//! not show.

use std::time::{Duration, Instant};

use crate::collectors::Batch;
use crate::collectors::entities::Entities;
use crate::collectors::interval::Counters;
use crate::collectors::text::lossy;
use crate::host::Host;
use crate::model::{Evidence, KernelEvent, Labels};

/// The names of the operations, as the `block_io` probe has them.
const OPERATIONS: [&str; 4] = ["read", "write", "discard", "flush"];

/// Requests are stuck when none has completed for so many times the limit of a single one.
const STUCK: u32 = 3;

/// Devices that hand on what they get without making requests of it, unless they have hardware queues all the same.
const STACKED: [&str; 5] = ["dm-", "md", "ram", "zram", "pmem"];

/// What a device has done since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Requests completed and milliseconds that they took, by [`OPERATIONS`]; zero where the kernel does not tell.
    pub completed: [(u64, u64); 4],
    /// Requests under way.
    pub in_flight: u64,
}

/// All devices.
pub struct Slow {
    host: Host,
    limit: Duration,
    /// By name; `None` for one without requests of its own.
    devices: Entities<Vec<u8>, Option<Device>>,
    /// When devices were looked at last: one that is new since then, or had done nothing by then, counts from zero.
    last_run: Option<Instant>,
}

struct Device {
    completed: Counters<8>,
    /// Since when requests have been under way and none has completed.
    waiting: Option<Instant>,
}

impl Slow {
    /// Nothing seen yet; a single request may take `limit`.
    pub fn new(host: &Host, limit: Duration) -> Self {
        Self { host: host.clone(), limit, devices: Entities::default(), last_run: None }
    }

    /// Takes what the present run says of a device.
    pub fn see(&mut self, batch: &mut Batch, name: &[u8], work: &Work) {
        if *work == Work::default() {
            return;
        }
        let Self { host, limit, devices, last_run } = self;
        let completed = last_run.map_or_else(Counters::default, Counters::from_zero);
        let make = || makes_requests(host, &lossy(name)).then_some(Device { completed, waiting: None });
        let limit = limit.as_secs_f64() * 1e3;
        devices.see(name, make, |device| {
            let Some(device) = device else { return };
            let [(reads, read_millis), (writes, write_millis), (discards, discard_millis), (flushes, flush_millis)] =
                work.completed;
            let totals = [reads, read_millis, writes, write_millis, discards, discard_millis, flushes, flush_millis];
            let Some(growth) = device.completed.advance(batch.at(), totals) else {
                device.waiting = None;
                return;
            };
            let [reads, read_millis, writes, write_millis, discards, discard_millis, flushes, flush_millis] = growth.by;
            let by_operation =
                [(reads, read_millis), (writes, write_millis), (discards, discard_millis), (flushes, flush_millis)];
            for (operation, (requests, millis)) in OPERATIONS.into_iter().zip(by_operation) {
                let mean = millis as f64 / requests as f64;
                if requests > 0 && mean > limit {
                    batch.events.push(slow(&lossy(name), operation, mean, limit, requests, growth.seconds));
                }
            }
            let is_moving = work.in_flight == 0 || by_operation.iter().any(|(requests, _)| *requests > 0);
            if is_moving {
                device.waiting = (work.in_flight > 0).then_some(batch.at());
                return;
            }
            let since = *device.waiting.get_or_insert(batch.at());
            let millis = batch.at().saturating_duration_since(since).as_secs_f64() * 1e3;
            if millis > 0.0 && millis >= limit * f64::from(STUCK) {
                batch.events.extend(stuck(host, &lossy(name), millis, limit, work.in_flight));
            }
        });
    }

    /// Ends a run.
    pub fn end_run(&mut self, at: Instant) {
        self.devices.end_run();
        self.last_run = Some(at);
    }
}

/// Whether the kernel makes requests for this device: partitions are in the requests of their disk.
fn makes_requests(host: &Host, name: &str) -> bool {
    let directory = host.sysfs("block").join(name.replace('/', "!"));
    directory.exists() && (directory.join("mq").exists() || !STACKED.iter().any(|prefix| name.starts_with(prefix)))
}

fn event(labels: Labels, millis: f64, limit: f64, message: String, facts: &[(&str, serde_json::Value)]) -> KernelEvent {
    let mut evidence: Evidence = facts.iter().map(|(name, fact)| ((*name).to_owned(), fact.clone())).collect();
    evidence.insert("source".into(), "/proc/diskstats".into());
    KernelEvent {
        metric: "kernel_block_io_slow",
        labels,
        value: millis,
        threshold: Some(limit),
        count: 1,
        message,
        source: "poll",
        evidence,
    }
}

fn slow(device: &str, operation: &'static str, mean: f64, limit: f64, requests: u64, seconds: f64) -> KernelEvent {
    let these = if requests == 1 { "a request".to_owned() } else { format!("{requests} requests") };
    event(
        Labels::new().with("device", device).with("operation", operation),
        mean,
        limit,
        format!("{operation} on {device} took {mean:.0} ms, the mean of {these} in {seconds:.0} s (limit {limit:.0} ms)"),
        &[("latency_is", "mean".into()), ("requests", requests.into()), ("seconds", seconds.into()), ("latency_ms", mean.into())],
    )
}

/// One event for each direction that requests are under way in, or one for all where the kernel does not tell.
fn stuck(host: &Host, device: &str, millis: f64, limit: f64, in_flight: u64) -> Vec<KernelEvent> {
    let path = host.sysfs("block").join(device.replace('/', "!")).join("inflight");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let directions = text.split_whitespace().zip(["read", "write"]);
    let mut under_way: Vec<(Option<&str>, u64)> = directions
        .filter_map(|(count, direction)| Some((Some(direction), count.parse().ok().filter(|count| *count > 0)?)))
        .collect();
    if under_way.is_empty() {
        under_way.push((None, in_flight));
    }
    let events = under_way.into_iter().map(|(operation, count)| {
        let mut labels = Labels::new().with("device", device);
        if let Some(operation) = operation {
            labels.set("operation", operation);
        }
        let seconds = millis / 1e3;
        let message = format!(
            "no request to {device} has completed for {seconds:.0} s, {count} {} under way (limit {limit:.0} ms)",
            if count == 1 { "is" } else { "are" }
        );
        event(labels, millis, limit, message, &[("in_flight", count.into()), ("latency_is", "lower bound".into())])
    });
    events.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::config::HostRoots;

    /// Runs of ten seconds; what each told.
    fn run(sysfs: &TempDir, name: &str, runs: &[Work]) -> Vec<Vec<(String, f64)>> {
        let host = Host::new(HostRoots { sysfs: sysfs.path().to_owned(), ..HostRoots::default() });
        let (mut slow, start) = (Slow::new(&host, Duration::from_millis(100)), Instant::now());
        let each = runs.iter().zip(0..).map(|(work, turn)| {
            let mut batch = Batch::new(start + Duration::from_secs(10 * turn));
            slow.see(&mut batch, name.as_bytes(), work);
            slow.end_run(batch.at());
            batch.events.into_iter().map(|event| (event.labels.to_string(), event.value)).collect()
        });
        each.collect()
    }

    fn sysfs() -> TempDir {
        let sysfs = TempDir::new().unwrap();
        for device in ["loop0", "sda", "dm-0", "dm-1/mq"] {
            fs::create_dir_all(sysfs.path().join("block").join(device)).unwrap();
        }
        sysfs
    }

    fn writes(count: u64, millis: u64, in_flight: u64) -> Work {
        Work { completed: [(0, 0), (count, millis), (0, 0), (0, 0)], in_flight }
    }

    #[test]
    fn a_mean_above_the_limit_is_an_event_on_devices_with_requests() {
        let sysfs = sysfs();
        let runs = [writes(10, 5000, 0), writes(12, 5200, 0), writes(14, 5402, 0), writes(14, 5402, 0), writes(1, 9000, 0)];
        let label = |name: &str| format!("{{device=\"{name}\",operation=\"write\"}}");
        for name in ["loop0", "sda", "dm-1"] {
            assert_eq!(run(&sysfs, name, &runs), [vec![], vec![], vec![(label(name), 101.0)], vec![], vec![]], "{name}");
        }
        for name in ["dm-0", "sda1"] {
            assert_eq!(run(&sysfs, name, &runs).concat(), [], "{name}");
        }
    }

    #[test]
    fn what_was_idle_or_not_there_before_counts_from_zero() {
        let sysfs = sysfs();
        let told = run(&sysfs, "sda", &[Work::default(), writes(1, 400, 0)]);
        assert_eq!(told[1], [("{device=\"sda\",operation=\"write\"}".to_owned(), 400.0)]);
    }

    #[test]
    fn requests_that_do_not_end_are_an_event() {
        let sysfs = sysfs();
        let runs = [writes(9, 9, 0), writes(9, 9, 2), writes(9, 9, 2), writes(9, 9, 2), writes(10, 99, 1), writes(10, 99, 1)];
        let device = "{device=\"sda\"}".to_owned();
        let expected = [
            vec![],
            vec![],
            vec![(device.clone(), 10_000.0)],
            vec![(device.clone(), 20_000.0)],
            vec![],
            vec![(device, 10_000.0)],
        ];
        assert_eq!(run(&sysfs, "sda", &runs), expected);
        fs::write(sysfs.path().join("block/sda/inflight"), "       0        2\n").unwrap();
        assert_eq!(run(&sysfs, "sda", &runs)[2][0].0, "{device=\"sda\",operation=\"write\"}");
    }
}
