//! What happens on the block devices: `/proc/diskstats`, described in Documentation/admin-guide/iostats.rst.
//!
//! Whole devices that have done something since boot; partitions are left out, and so are loop devices and RAM disks, whose
//! work shows on what lies below. Means only: tails need the `block_io` probe. Where a mean is above the limit of single requests,
//! that is an event; see `slow`.

mod slow;

use std::time::Duration;

use self::slow::{Slow, Work};
use super::entities::Entities;
use super::interval::{Counters, percent};
use super::text::{fields, lossy};
use super::{Batch, Collector, Expected, Row, keys, metrics};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "disk_io",
    summary: "bytes, operations, waiting time and utilization of block devices",
    source: "/proc/diskstats",
    interval: |config| config.agent.collect_interval,
    build: |config, host| Box::new(DiskIo::new(host, config.ebpf.block_io_slow)),
    metrics: METRICS,
};

metrics! {
    counter READ: Bytes = "disk_read_bytes_total", "Bytes read since boot (/proc/diskstats).";
    counter WRITTEN: Bytes = "disk_written_bytes_total", "Bytes written since boot (/proc/diskstats).";
    counter READS: Count = "disk_reads_total", "Reads completed since boot (/proc/diskstats).";
    counter WRITES: Count = "disk_writes_total", "Writes completed since boot (/proc/diskstats).";
    counter READS_MERGED: Count = "disk_reads_merged_total", "Reads that became part of another since boot (/proc/diskstats).";
    counter WRITES_MERGED: Count = "disk_writes_merged_total", "Writes that became part of another since boot (/proc/diskstats).";
    counter READ_TIME: Seconds = "disk_read_seconds_total", "Time that all reads took together (/proc/diskstats).";
    counter WRITE_TIME: Seconds = "disk_write_seconds_total", "Time that all writes took together (/proc/diskstats).";
    counter BUSY: Seconds = "disk_busy_seconds_total", "Time during which requests were in flight (/proc/diskstats io_ticks).";
    gauge IN_FLIGHT: Count = "disk_requests_in_flight", "Requests in flight at this moment (/proc/diskstats).";
    gauge UTILIZATION: Percent = "disk_utilization_percent",
        "Share of time during which requests were in flight, as %util of iostat.";
    gauge QUEUE: Count = "disk_queue_length", "Requests in flight on average, as aqu-sz of iostat.";
    gauge AWAIT: Seconds = "disk_await_seconds",
        "Mean time of the reads and writes that completed, waiting included, as await of iostat; absent when there were none.";
}

/// Sectors of `/proc/diskstats` have this size, whatever the device's own is.
const SECTOR: u64 = 512;

/// Whole devices whose work shows on the devices below, or that are no disks.
const IGNORED: [&[u8]; 4] = [b"loop", b"ram", b"fd", b"sr"];

struct DiskIo {
    host: Host,
    diskstats: ProcFile,
    /// By name; `None` for a device that is left out.
    devices: Entities<Vec<u8>, Option<Device>>,
    slow: Slow,
}

struct Device {
    /// Reads, writes, milliseconds of reads, of writes.
    completed: Counters<4>,
    /// Milliseconds with requests in flight, and the same weighted by their number. 32 bits wide, so they wrap.
    busy: Counters<2>,
    series: [SeriesKey; 13],
}

impl DiskIo {
    fn new(host: &Host, limit: Duration) -> Self {
        let diskstats = ProcFile::new(host.procfs("diskstats"));
        Self { host: host.clone(), diskstats, devices: Entities::default(), slow: Slow::new(host, limit) }
    }
}

impl Collector for DiskIo {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { host, diskstats, devices, slow } = self;
        let text = diskstats.read()?;
        // A host that has no block device at all is no mistake.
        if !text.is_empty() {
            batch.lines(text, |batch, line| {
                let (name, stats, work) = parse_line(line)?;
                if stats.reads > 0 || stats.writes > 0 || stats.in_flight > 0 {
                    devices.see(
                        name,
                        || is_whole_device(host, name).then(|| Device::new(name)),
                        |device| device.iter_mut().for_each(|device| device.emit(batch, &stats)),
                    );
                }
                slow.see(batch, name, &work);
                Ok(())
            });
        }
        devices.end_run();
        slow.end_run(batch.at());
        Ok(())
    }
}

impl Device {
    fn new(name: &[u8]) -> Self {
        let metrics = [
            &READ,
            &WRITTEN,
            &READS,
            &WRITES,
            &READS_MERGED,
            &WRITES_MERGED,
            &READ_TIME,
            &WRITE_TIME,
            &BUSY,
            &IN_FLIGHT,
            &UTILIZATION,
            &QUEUE,
            &AWAIT,
        ];
        Self {
            completed: Counters::default(),
            busy: Counters::default(),
            series: keys(metrics, &Labels::new().with("device", lossy(name))),
        }
    }

    fn emit(&mut self, batch: &mut Batch, stats: &Stats) {
        let [
            read,
            written,
            reads,
            writes,
            reads_merged,
            writes_merged,
            read_time,
            write_time,
            busy,
            in_flight,
            utilization,
            queue,
            wait,
        ] = &self.series;
        batch.push_count(read, stats.sectors_read.saturating_mul(SECTOR));
        batch.push_count(written, stats.sectors_written.saturating_mul(SECTOR));
        batch.push_count(reads, stats.reads);
        batch.push_count(writes, stats.writes);
        batch.push_count(reads_merged, stats.reads_merged);
        batch.push_count(writes_merged, stats.writes_merged);
        batch.push(read_time, stats.read_millis as f64 / 1e3);
        batch.push(write_time, stats.write_millis as f64 / 1e3);
        batch.push(busy, stats.busy_millis as f64 / 1e3);
        batch.push_count(in_flight, stats.in_flight);

        if let Some(growth) = self.busy.advance(batch.at(), [stats.busy_millis, stats.weighted_millis]) {
            let millis = growth.seconds * 1e3;
            let [busy_millis, weighted_millis] = growth.by.map(|by| by as f64);
            batch.push(utilization, percent(busy_millis, millis).unwrap_or_default());
            batch.push(queue, weighted_millis / millis);
        }
        let completed = [stats.reads, stats.writes, stats.read_millis, stats.write_millis];
        if let Some(growth) = self.completed.advance(batch.at(), completed) {
            let [reads, writes, read_millis, write_millis] = growth.by.map(|by| by as f64);
            if reads + writes > 0.0 {
                batch.push(wait, (read_millis + write_millis) / (reads + writes) / 1e3);
            }
        }
    }
}

/// Whether this is a disk of its own: sysfs lists those, and only those, in `block`, with `!` where the name has `/`.
fn is_whole_device(host: &Host, name: &[u8]) -> bool {
    let numbered = |prefix: &&[u8]| name.strip_prefix(*prefix).is_some_and(|rest| rest.iter().all(u8::is_ascii_digit));
    !IGNORED.iter().any(numbered)
        && (host.sysfs("block").join(lossy(name).replace('/', "!")).exists() || !host.sysfs("block").exists())
}

/// What `/proc/diskstats` says of a device since boot.
#[derive(Debug, PartialEq)]
struct Stats {
    reads: u64,
    reads_merged: u64,
    sectors_read: u64,
    read_millis: u64,
    writes: u64,
    writes_merged: u64,
    sectors_written: u64,
    write_millis: u64,
    in_flight: u64,
    busy_millis: u64,
    weighted_millis: u64,
}

/// One line: major, minor, name, and at least eleven numbers. 4.18 added four for discards, 5.5 two for flushes.
fn parse_line(line: &[u8]) -> Result<(&[u8], Stats, Work), Expected> {
    let mut rest = fields(line);
    rest.numbers::<2>().ok_or("a major and a minor number")?;
    let name = rest.next().ok_or("the name of a device")?;
    let numbers = rest.numbers().ok_or("eleven numbers")?;
    let [
        reads,
        reads_merged,
        sectors_read,
        read_millis,
        writes,
        writes_merged,
        sectors_written,
        write_millis,
        in_flight,
        busy_millis,
        weighted_millis,
    ] = numbers;
    let stats = Stats {
        reads,
        reads_merged,
        sectors_read,
        read_millis,
        writes,
        writes_merged,
        sectors_written,
        write_millis,
        in_flight,
        busy_millis,
        weighted_millis,
    };
    let [discards, _, _, discard_millis] = rest.numbers().unwrap_or_default();
    let [flushes, flush_millis] = rest.numbers().unwrap_or_default();
    let completed = [(reads, read_millis), (writes, write_millis), (discards, discard_millis), (flushes, flush_millis)];
    Ok((name, stats, Work { completed, in_flight }))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::collectors::text::mangle;

    /// 3.10: fourteen columns.
    const OLD: &[u8] = b"   8       0 sda 85212 105 3671214 51247 1296548 39873 24127853 711530 2 301244 762514";
    /// 6.18: twenty.
    const NEW: &[u8] =
        b" 254       0 vda 39942 10076 6065570 34874 14223 91728 9527392 45646 0 14088 81580 7154 67 839960 972 1413 86";

    #[test]
    fn lines_of_several_kernels_are_read() {
        let (name, stats, _) = parse_line(OLD).unwrap();
        assert_eq!(name, b"sda");
        assert_eq!((stats.reads, stats.in_flight, stats.weighted_millis), (85_212, 2, 762_514));
        let (name, stats, work) = parse_line(NEW).unwrap();
        assert_eq!(name, b"vda");
        assert_eq!((stats.sectors_written, stats.write_millis, stats.busy_millis), (9_527_392, 45_646, 14_088));
        let completed = [(39_942, 34_874), (14_223, 45_646), (7154, 972), (1413, 86)];
        assert_eq!(work, Work { completed, in_flight: 0 });
        // 2.6 kernels before 2.6.25 had seven columns for partitions.
        assert_eq!(parse_line(b"   3    1   hda1 35486 38030 38030 38030"), Err("eleven numbers"));
    }

    #[test]
    fn rates_are_what_iostat_shows() {
        let start = Instant::now();
        let mut device = Device::new(b"sda");
        let (_, mut stats, _) = parse_line(OLD).unwrap();
        device.emit(&mut Batch::new(start), &stats);
        stats.reads += 30;
        stats.read_millis += 60;
        stats.writes += 10;
        stats.write_millis += 140;
        stats.busy_millis += 2_500;
        stats.weighted_millis += 20_000;
        let mut batch = Batch::new(start + Duration::from_secs(10));
        device.emit(&mut batch, &stats);
        let value = |name| batch.samples.iter().find(|sample| sample.series.metric().name == name).map(|sample| sample.value);
        assert_eq!(value("disk_utilization_percent"), Some(25.0));
        assert_eq!(value("disk_queue_length"), Some(2.0));
        assert_eq!(value("disk_await_seconds"), Some(0.005));
    }

    #[test]
    fn a_counter_that_wraps_costs_its_rates_once() {
        let start = Instant::now();
        let mut device = Device::new(b"sda");
        let (_, mut stats, _) = parse_line(OLD).unwrap();
        device.emit(&mut Batch::new(start), &stats);
        stats.weighted_millis = 3;
        stats.reads += 1;
        let mut batch = Batch::new(start + Duration::from_secs(10));
        device.emit(&mut batch, &stats);
        let has = |name| batch.samples.iter().any(|sample| sample.series.metric().name == name);
        assert!(!has("disk_utilization_percent"));
        assert!(!has("disk_queue_length"));
        assert!(has("disk_await_seconds"), "the others go on");
    }

    #[test]
    fn no_input_panics() {
        mangle(OLD, |line| {
            let _ = parse_line(line);
        });
        mangle(NEW, |line| {
            let _ = parse_line(line);
        });
    }
}
