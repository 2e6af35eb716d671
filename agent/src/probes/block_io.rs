//! Probe `block_io`: latency of every block request, and the requests that were slow or failed.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use agent_common::block_io::{self, BUCKETS, BlockIoRecord, Fields, HistogramKey, RequestFields};
use agent_common::{ABSENT, Record as _};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuHashMap};

use super::tracefs::Format;
use super::{Facts, Hook, Kernel, Probe, Rung, Unavailable, comm, registers};
use crate::config;
use crate::host::Host;
use crate::model::{Evidence, Histogram, KernelEvent, Labels, Metric, Sample, SeriesKey, Unit};

/// Names of [`agent_common::block_io::Operation`].
const OPERATIONS: [&str; 5] = ["read", "write", "flush", "discard", "other"];

/// What the histograms give.
pub const METRICS: &[Metric] = &[REQUESTS, LATENCY_P50, LATENCY_P99, LATENCY];

const REQUESTS: Metric = Metric::counter(
    "disk_io_requests_total",
    Unit::Count,
    "Completed block requests by device and operation (block_rq_complete)",
);
const LATENCY_P50: Metric = Metric::gauge(
    "disk_io_latency_p50_seconds",
    Unit::Seconds,
    "Half of the requests of the last interval took no longer, to the next power of two (block_rq_issue to block_rq_complete)",
);
const LATENCY_P99: Metric = Metric::gauge(
    "disk_io_latency_p99_seconds",
    Unit::Seconds,
    "99 of 100 requests of the last interval took no longer, to the next power of two",
);
const LATENCY: Metric = Metric::histogram(
    "block_io_latency_seconds",
    Unit::Seconds,
    "Latency of block requests by device and operation, since the probe was attached (block_rq_issue to block_rq_complete)",
);

/// BTF tracepoints, with offsets from the kernel's BTF.
pub fn btf_tracepoints(kernel: &Kernel, settings: &config::Ebpf) -> Result<Rung, Unavailable> {
    let hook = |program, name| Hook::BtfTracepoint { program, name };
    let hooks = vec![hook("block_rq_issue_btf", "block_rq_issue"), hook("block_rq_complete_btf", "block_rq_complete")];
    let optional = [
        hook("block_rq_insert_btf", "block_rq_insert"),
        hook("block_rq_requeue_btf", "block_rq_requeue"),
        hook("block_rq_merge_btf", "block_rq_merge"),
    ];
    by_address("BTF tracepoints block_rq_issue, block_rq_complete", kernel, settings, hooks, optional)
}

/// Raw tracepoints, with the same offsets.
pub fn raw_tracepoints(kernel: &Kernel, settings: &config::Ebpf) -> Result<Rung, Unavailable> {
    let hook = |program, name| Hook::RawTracepoint { program, name };
    let hooks = vec![hook("block_rq_issue_raw", "block_rq_issue"), hook("block_rq_complete_raw", "block_rq_complete")];
    let optional = [
        hook("block_rq_insert_raw", "block_rq_insert"),
        hook("block_rq_requeue_raw", "block_rq_requeue"),
        hook("block_rq_merge_raw", "block_rq_merge"),
    ];
    by_address("raw tracepoints block_rq_issue, block_rq_complete", kernel, settings, hooks, optional)
}

/// A rung whose programs key requests by address, with those of the optional tracepoints that the kernel has.
fn by_address(
    source: &'static str,
    kernel: &Kernel,
    settings: &config::Ebpf,
    hooks: Vec<Hook>,
    optional: [Hook; 3],
) -> Result<Rung, Unavailable> {
    const STATIONS: [&str; 3] = ["block_rq_insert", "block_rq_requeue", "block_rq_merge"];
    let arguments = kernel.btf()?.raw_tracepoint_arguments(&[&STATIONS[..], &["block_rq_issue"]].concat());
    let second = |tracepoint| u16::from(arguments.get(tracepoint) == Some(&2));
    let [insert_rq_argument, requeue_rq_argument, merge_rq_argument] = STATIONS.map(second);
    let fields = Fields {
        insert_rq_argument,
        requeue_rq_argument,
        merge_rq_argument,
        issue_rq_argument: second("block_rq_issue"),
        ..structures(kernel)?
    };
    let there = STATIONS.into_iter().zip(optional).filter(|(station, _)| arguments.contains_key(station));
    let optional = there.map(|(_, hook)| hook).collect();
    Ok(Rung::new(source, &fields, hooks).and_optional(optional).with("SLOW_NS", &slow_ns(settings)))
}

/// Where the members of the kernel's structures are.
fn structures(kernel: &Kernel) -> Result<Fields, Unavailable> {
    let btf = kernel.btf()?;
    // Until 5.17 the first is the way to the disk, since then the second.
    let (old, new) = (("request", "rq_disk"), ("request_queue", "disk"));
    let mut offsets = btf.required_offsets(&[
        ("request", "q"),
        ("request", "cmd_flags"),
        ("request", "__data_len"),
        ("request", "__sector"),
        ("gendisk", "major"),
        ("gendisk", "first_minor"),
    ])?;
    let way = btf.member_offsets(&[old, new]);
    offsets.extend(if way.contains_key(&old) { way } else { btf.required_offsets(&[new])? });
    let at = |structure, member| offsets.get(&(structure, member)).copied().unwrap_or(ABSENT);
    let (rq_disk, q_disk) = (at("request", "rq_disk"), at("request_queue", "disk"));
    Ok(Fields {
        rq_q: at("request", "q"),
        rq_disk,
        q_disk: if rq_disk == ABSENT { q_disk } else { ABSENT },
        rq_cmd_flags: at("request", "cmd_flags"),
        rq_data_len: at("request", "__data_len"),
        rq_sector: at("request", "__sector"),
        disk_major: at("gendisk", "major"),
        disk_first_minor: at("gendisk", "first_minor"),
        ..Fields::ABSENT
    })
}

/// Ordinary tracepoints, with offsets from their `format` files.
pub fn tracepoints(kernel: &Kernel, settings: &config::Ebpf) -> Result<Rung, Unavailable> {
    let fields = |name: &str| -> Result<RequestFields, Unavailable> {
        let format = Format::read(&kernel.host, "block", name)?;
        Ok(RequestFields {
            dev: format.required(name, "dev", 4)?,
            sector: format.required(name, "sector", 8)?,
            nr_sector: format.offset("nr_sector", 4),
            rwbs: format.text("rwbs").0,
            error: format.offset("error", 4),
        })
    };
    let absent = |_| RequestFields::ABSENT;
    let fields = Fields {
        insert: fields("block_rq_insert").unwrap_or_else(absent),
        requeue: fields("block_rq_requeue").unwrap_or_else(absent),
        issue: fields("block_rq_issue")?,
        complete: fields("block_rq_complete")?,
        ..Fields::ABSENT
    };
    let hook = |name: &'static str| Hook::Tracepoint { program: name, category: "block", name: name.into() };
    let hooks = vec![hook("block_rq_issue"), hook("block_rq_complete")];
    let optional = [("block_rq_insert", &fields.insert), ("block_rq_requeue", &fields.requeue)];
    let optional = optional.into_iter().filter(|(_, layout)| **layout != RequestFields::ABSENT).map(|(name, _)| hook(name));
    let optional = optional.collect();
    let rung = Rung::new("tracepoints block/block_rq_issue, block/block_rq_complete", &fields, hooks);
    Ok(rung.and_optional(optional).with("SLOW_NS", &slow_ns(settings)))
}

/// The functions behind these tracepoints, with offsets from the kernel's BTF. Completions in batches, as of fast devices on newer
/// kernels, pass them by.
pub fn kprobes(kernel: &Kernel, settings: &config::Ebpf) -> Result<Rung, Unavailable> {
    let registers = registers()?;
    let hooks = vec![
        Hook::Kprobe { program: "blk_mq_start_request", functions: &["blk_mq_start_request"] },
        Hook::Kprobe { program: "blk_update_request", functions: &["blk_update_request"] },
    ];
    let rung = Rung::new("kprobes blk_mq_start_request, blk_update_request", &structures(kernel)?, hooks);
    Ok(rung.with("SLOW_NS", &slow_ns(settings)).with("REGISTERS", &registers))
}

fn slow_ns(settings: &config::Ebpf) -> u64 {
    u64::try_from(settings.block_io_slow.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes the user half.
pub fn build(host: &Host, settings: &config::Ebpf) -> Arc<dyn Probe> {
    #[expect(clippy::cast_precision_loss, reason = "a limit in milliseconds is far below 2^53")]
    let slow_ms = settings.block_io_slow.as_millis() as f64;
    Arc::new(BlockIo { host: host.clone(), slow_ms, devices: Mutex::default(), histograms: Mutex::default() })
}

struct BlockIo {
    host: Host,
    slow_ms: f64,
    devices: Mutex<BTreeMap<u32, String>>,
    histograms: Mutex<BTreeMap<(u32, u32), Seen>>,
}

/// What the last sample saw of one histogram, and where its values go.
struct Seen {
    buckets: [u64; BUCKETS],
    /// The same without the wraps of the kernel's counts.
    total: [u64; BUCKETS],
    series: [SeriesKey; 4],
}

impl Probe for BlockIo {
    fn decode(&self, record: &[u8]) -> Option<KernelEvent> {
        let record = BlockIoRecord::from_bytes(record)?;
        #[expect(clippy::cast_precision_loss, reason = "a latency in nanoseconds beyond 2^53 is 104 days")]
        let latency_ms = record.latency_ns as f64 / 1e6;
        let mut evidence = Evidence::new();
        evidence.insert("monotonic_ns".into(), record.monotonic_ns.into());
        evidence.insert("sector".into(), record.sector.into());
        evidence.insert("bytes".into(), record.bytes.into());
        evidence.insert("latency_ms".into(), latency_ms.into());
        // Requests that the kernel issues by itself have no process; naming the idle task would be a lie.
        if record.pid != 0 {
            evidence.insert("pid".into(), record.pid.into());
            evidence.insert("comm".into(), comm(&record.comm).into());
        }
        if record.one_in > 1 {
            evidence.insert("sampled_one_in".into(), record.one_in.into());
        }
        let operation = usize::try_from(record.operation).ok().and_then(|index| OPERATIONS.get(index))?;
        let labels = Labels::new().with("device", self.device(record.device)).with("operation", *operation);
        let (metric, value, threshold) = if record.error == 0 {
            ("kernel_block_io_slow", latency_ms, Some(self.slow_ms))
        } else {
            evidence.insert("error".into(), error_name(record.error).into());
            ("kernel_block_io_error", 1.0, None)
        };
        Some(KernelEvent { metric, labels, value, threshold, count: 1, message: String::new(), source: "probe", evidence })
    }

    fn enrich(&self, record: &[u8], facts: &Facts) {
        let Some(record) = BlockIoRecord::from_bytes(record).filter(|record| record.pid != 0) else { return };
        let issuer = self.host.process(record.pid);
        // A process that has ended is in no cgroup any more, but was in one.
        facts.evidence("cgroup", issuer.cgroup("blkio").or_else(|| self.host.cgroup_of_id(record.cgroup)));
        facts.evidence("command_line", issuer.command_line());
    }

    fn describe(&self, event: &KernelEvent) -> String {
        let label = |name| event.labels.get(name).unwrap_or("?");
        let field = |name| event.evidence.get(name);
        let issuer = match (field("comm").and_then(|value| value.as_str()), field("pid")) {
            (Some(comm), Some(pid)) => format!(", issued by {comm} (pid {pid})"),
            _ => String::new(),
        };
        let bytes = field("bytes").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let sector = field("sector").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let what = format!("{} of {bytes} bytes at sector {sector} of {}", label("operation"), label("device"));
        match event.threshold {
            Some(limit) => format!("{what} took {:.0} ms (limit {limit:.0} ms){issuer}", event.value),
            None => format!("{what} failed: {}{issuer}", field("error").and_then(|value| value.as_str()).unwrap_or("?")),
        }
    }

    fn sample(&self, maps: &aya::Ebpf, samples: &mut Vec<Sample>, distributions: &mut Vec<Histogram>) {
        let Some(map) = maps.map("HISTOGRAMS") else { return };
        let Ok(map) = PerCpuHashMap::<&MapData, [u32; 2], [u64; HISTOGRAM_WORDS]>::try_from(map) else { return };
        let mut histograms = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        for (key @ [device, operation], by_cpu) in map.iter().flatten() {
            if self.is_gone(device) {
                continue;
            }
            let (mut buckets, mut sum_ns) = ([0; BUCKETS], 0_u64);
            for words in by_cpu.iter() {
                add_buckets(&mut buckets, words);
                sum_ns = sum_ns.saturating_add(words.last().copied().unwrap_or(0));
            }
            let seen = histograms.entry(key.into()).or_insert_with(|| self.unseen(device, operation));
            seen.sample(buckets, samples);
            distributions.push(seen.distribution(sum_ns));
        }
        drop(histograms);
        make_room(maps);
    }

    fn shed(&self, maps: &mut aya::Ebpf, one_in: u32) -> bool {
        let Some(Ok(mut sampling)) = maps.map_mut("SAMPLING").map(Array::<_, u32>::try_from) else { return false };
        sampling.set(0, one_in, 0).is_ok()
    }
}

/// A request under way as the kernel half keeps it, in words; the first is zero in an entry that waits for its next request.
type InFlight = [u64; 5];

/// Removes the entries of requests that are complete, where the kernel half found no room for a new one: those of devices that
/// are gone would stay for ever. An entry that comes back into use at this moment costs one request its latency.
fn make_room(maps: &aya::Ebpf) -> Option<()> {
    let map = |name| match maps.map(name) {
        Some(Map::HashMap(data) | Map::Array(data)) => MapData::from_fd(data.fd().as_fd().try_clone_to_owned().ok()?).ok(),
        _ => None,
    };
    let mut crowded = Array::<_, u32>::try_from(Map::Array(map("CROWDED")?)).ok()?;
    if crowded.get(&0, 0).ok()? != 1 {
        return None;
    }
    let mut requests = HashMap::<_, u64, InFlight>::try_from(Map::HashMap(map("IN_FLIGHT")?)).ok()?;
    let idle: Vec<u64> = requests.iter().flatten().filter(|(_, [ns, ..])| *ns == 0).map(|(address, _)| address).collect();
    idle.iter().for_each(|address| drop(requests.remove(address)));
    crowded.set(0, 2, 0).ok()
}

/// A [`block_io::Histogram`] in words of the size that aya reads as they are.
const HISTOGRAM_WORDS: usize = size_of::<block_io::Histogram>() / 8;
const _: () = assert!(size_of::<HistogramKey>() == 8 && size_of::<block_io::Histogram>().is_multiple_of(8));

/// Adds the counts of one CPU: 32-bit words, two in each 64-bit one, before the padding and the sum.
fn add_buckets(buckets: &mut [u64; BUCKETS], words: &[u64; HISTOGRAM_WORDS]) {
    let counts = words.iter().flat_map(|word| {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
    });
    buckets.iter_mut().zip(counts).for_each(|(sum, count)| *sum += u64::from(count));
}

impl BlockIo {
    /// The device's name, such as `sda` or `nvme0n1p2`; its numbers where sysfs does not know it.
    fn device(&self, number: u32) -> String {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = devices.get(&number) {
            return name.clone();
        }
        let numbers = format!("{}:{}", number >> 20, number & 0xf_ffff);
        let Ok(link) = std::fs::read_link(self.host.sysfs(format!("dev/block/{numbers}"))) else { return numbers };
        let name = link.file_name().map_or(numbers, |name| name.to_string_lossy().into_owned());
        devices.insert(number, name.clone());
        name
    }

    /// Whether sysfs knew the device and does not any more: it was taken out, and the kernel half still has its histogram.
    fn is_gone(&self, number: u32) -> bool {
        let known = self.devices.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&number);
        let link = || self.host.sysfs(format!("dev/block/{}:{}", number >> 20, number & 0xf_ffff));
        known && std::fs::symlink_metadata(link()).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    fn unseen(&self, device: u32, operation: u32) -> Seen {
        let operation = usize::try_from(operation).ok().and_then(|index| OPERATIONS.get(index)).copied().unwrap_or("other");
        let labels = Labels::new().with("device", self.device(device)).with("operation", operation);
        let series = [&REQUESTS, &LATENCY_P50, &LATENCY_P99, &LATENCY].map(|metric| SeriesKey::new(metric, labels.clone()));
        Seen { buckets: [0; BUCKETS], total: [0; BUCKETS], series }
    }
}

impl Seen {
    /// Gives the total, and the quantiles of what came since the last sample.
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are out of reach")]
    fn sample(&mut self, buckets: [u64; BUCKETS], samples: &mut Vec<Sample>) {
        let mut fresh = [0; BUCKETS];
        for ((fresh, now), before) in fresh.iter_mut().zip(buckets).zip(self.buckets) {
            // The kernel's counts are 32-bit words and wrap; the interval is short enough for one wrap at most by CPU.
            *fresh = now.wrapping_sub(before) & u64::from(u32::MAX);
        }
        self.buckets = buckets;
        self.total.iter_mut().zip(fresh).for_each(|(total, fresh)| *total += fresh);
        let [requests, p50, p99, _] = &self.series;
        samples.push(Sample { series: requests.clone(), value: buckets.iter().sum::<u64>() as f64 });
        for (series, quantile) in [(p50, 0.5), (p99, 0.99)] {
            if let Some(seconds) = upper_bound(&fresh, quantile) {
                samples.push(Sample { series: series.clone(), value: seconds });
            }
        }
    }

    /// All that the last sample saw. A request that took exactly as long as a bound is in the bucket above it.
    #[expect(clippy::cast_precision_loss, reason = "a sum of nanoseconds, of which the last digits do not matter")]
    fn distribution(&self, sum_ns: u64) -> Histogram {
        let [.., series] = &self.series;
        let upper_us = |index: usize| if index + 1 < BUCKETS { (2_u64 << index) as f64 / 1e6 } else { f64::INFINITY };
        let buckets = self.total.iter().enumerate().map(|(index, count)| (upper_us(index), *count)).collect();
        Histogram { series: series.clone(), buckets, sum: sum_ns as f64 / 1e9 }
    }
}

/// The upper end, in seconds, of the bucket that holds the quantile; `None` of an empty histogram.
#[expect(clippy::cast_precision_loss, reason = "counts of an interval are far below 2^53")]
fn upper_bound(buckets: &[u64; BUCKETS], quantile: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    let mut upper_us = 1_u64;
    let mut below = 0;
    for count in buckets {
        below += count;
        upper_us *= 2;
        if total > 0 && below as f64 >= quantile * total as f64 {
            return Some(upper_us as f64 / 1e6);
        }
    }
    None
}

/// The name of an error: a negative errno, or since 5.16 a `blk_status_t` (include/linux/blk_types.h, block/blk-core.c).
fn error_name(error: i32) -> String {
    let name = match error {
        -5 | 10 => "EIO",
        -11 | 12 => "EAGAIN",
        -12 | 9 => "ENOMEM",
        -28 | 3 => "ENOSPC",
        -52 | 6 => "EBADE",
        -61 | 7 => "ENODATA",
        -62 => "ETIME",
        -67 | 4 => "ENOLINK",
        -84 | 8 => "EILSEQ",
        -95 | 1 => "EOPNOTSUPP",
        -110 | 2 => "ETIMEDOUT",
        -121 | 5 => "EREMOTEIO",
        negative if negative < 0 => return format!("errno {}", negative.unsigned_abs()),
        status => return format!("block status {status}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_upper_ends_of_their_buckets() {
        let mut buckets = [0; BUCKETS];
        assert_eq!(upper_bound(&buckets, 0.5), None);
        buckets[3] = 98;
        buckets[10] = 2;
        assert_eq!(upper_bound(&buckets, 0.5), Some(16e-6));
        assert_eq!(upper_bound(&buckets, 0.99), Some(2048e-6));
    }

    #[test]
    fn the_words_of_a_map_value_are_the_buckets() {
        let histogram =
            block_io::Histogram { buckets: std::array::from_fn(|index| u32::try_from(index).unwrap()), pad: 7, sum_ns: 9 };
        // SAFETY: both are plain integers without padding, and of the same size.
        let words: [u64; HISTOGRAM_WORDS] = unsafe { std::mem::transmute(histogram) };
        let mut buckets = [1; BUCKETS];
        add_buckets(&mut buckets, &words);
        assert_eq!(buckets, std::array::from_fn(|index| index as u64 + 1));
        assert_eq!(words.last(), Some(&9));
    }

    #[test]
    fn only_what_is_new_counts_and_a_wrapped_counter_gives_no_absurd_value() {
        let probe = BlockIo {
            host: Host::new(config::HostRoots::default()),
            slow_ms: 100.0,
            devices: Mutex::default(),
            histograms: Mutex::default(),
        };
        let mut seen = probe.unseen(u32::MAX, 0);
        seen.buckets[2] = u64::from(u32::MAX);
        let mut buckets = [0; BUCKETS];
        buckets[5] = 3;
        let mut samples = Vec::new();
        seen.sample(buckets, &mut samples);
        assert_eq!(samples.iter().map(|sample| sample.value).collect::<Vec<_>>(), [3.0, 64e-6, 64e-6]);
        // The wrapped count is one of the new values: it has come round to zero.
        let histogram = seen.distribution(5_000_000_000);
        assert_eq!(histogram.sum, 5.0);
        assert_eq!(histogram.buckets[2], (8e-6, 1));
        assert_eq!(histogram.buckets[5], (64e-6, 3));
        assert_eq!(histogram.buckets[25..], [(67.108864, 0), (f64::INFINITY, 0)]);
    }

    #[test]
    fn a_device_is_gone_that_sysfs_knew_once() {
        let sysfs = tempfile::tempdir().unwrap();
        let link = sysfs.path().join("dev/block/8:16");
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        let roots = config::HostRoots { sysfs: sysfs.path().into(), ..config::HostRoots::default() };
        let probe = BlockIo { host: Host::new(roots), slow_ms: 100.0, devices: Mutex::default(), histograms: Mutex::default() };
        let number = 8 << 20 | 16;
        assert_eq!(probe.device(number), "8:16");
        assert!(!probe.is_gone(number), "nobody knows it");
        std::os::unix::fs::symlink("../../block/sdb", &link).unwrap();
        assert_eq!(probe.device(number), "sdb");
        assert!(!probe.is_gone(number));
        std::fs::remove_file(&link).unwrap();
        assert!(probe.is_gone(number));
    }

    #[test]
    fn errors_have_their_names_in_both_forms() {
        assert_eq!(error_name(-5), error_name(10));
        assert_eq!(error_name(-22), "errno 22");
    }

    /// Every way to attach the probe to this kernel that works, with its user half.
    fn attached() -> Vec<(crate::probes::Attached, Arc<dyn Probe>)> {
        let host = Host::new(config::HostRoots::default());
        let (kernel, settings) = (Kernel::new(host.clone()), config::Ebpf::default());
        let row = crate::probes::PROBES.iter().find(|row| row.name == "block_io").unwrap();
        let all = (0..row.rungs.len()).map(|rung| crate::probes::attach_by(row, rung, &kernel, &settings));
        all.flatten().map(|attached| (attached, (row.build)(&host, &settings))).collect()
    }

    /// Reads `count` blocks past the page cache, one after the other; the requests that the probe says the device has completed.
    fn counted(attached: &crate::probes::Attached, probe: &dyn Probe, disk: &xtask::faults::RamDisk, count: u64) -> f64 {
        let device = disk.path().file_name().unwrap().to_str().unwrap().to_owned();
        let total = || {
            let mut samples = Vec::new();
            probe.sample(&attached.ebpf, &mut samples, &mut Vec::new());
            let labels = Labels::new().with("device", device.clone()).with("operation", "read");
            let series = SeriesKey::new(&REQUESTS, labels);
            samples.iter().find(|sample| sample.series == series).map_or(0.0, |sample| sample.value)
        };
        let before = total();
        let (of, blocks) = (format!("if={}", disk.path().display()), format!("count={count}"));
        let done = std::process::Command::new("dd").args([&of, "of=/dev/null", "bs=4096", "iflag=direct", &blocks]).output();
        assert!(done.unwrap().status.success());
        total() - before
    }

    #[test]
    fn a_sample_of_the_requests_estimates_all() {
        if xtask::faults::needs_root() {
            return;
        }
        let disk = xtask::faults::RamDisk::attach(16 << 20).unwrap();
        for (mut attached, probe) in attached() {
            // The kernel leaves a run out where one of the same program is under way on the CPU, and counts it.
            let missed = || attached.counts.recursion_misses() as f64;
            let before = missed();
            let all = counted(&attached, &*probe, &disk, 4096);
            assert!((4096.0 - (missed() - before)..=4096.0).contains(&all), "{}: {all}", attached.source);
            assert!(probe.shed(&mut attached.ebpf, 8));
            let estimate = counted(&attached, &*probe, &disk, 4096);
            // Five standard deviations of a binomial distribution: 8 * sqrt(4096 * 1/8 * 7/8) * 5.
            assert!((4096.0 - 850.0..4096.0 + 850.0).contains(&estimate), "{}: {estimate}", attached.source);
            assert!(probe.shed(&mut attached.ebpf, 1));
            assert_eq!(counted(&attached, &*probe, &disk, 64), 64.0, "{}", attached.source);
        }
    }

    #[test]
    fn entries_of_devices_that_are_gone_make_room() {
        if xtask::faults::needs_root() {
            return;
        }
        for (attached, probe) in attached().into_iter().filter(|(attached, _)| attached.source.contains("BTF")) {
            let Some(Map::HashMap(data)) = attached.ebpf.map("IN_FLIGHT") else { panic!("no map") };
            let data = MapData::from_fd(data.fd().as_fd().try_clone_to_owned().unwrap()).unwrap();
            let mut requests = HashMap::<_, u64, InFlight>::try_from(Map::HashMap(data)).unwrap();
            let gone = (1..).take_while(|address| requests.insert(address, [0; 5], 0).is_ok()).count();
            assert!(gone > 4096, "{gone}");
            // A device whose structures are new to the probe.
            let disk = xtask::faults::RamDisk::attach(16 << 20).unwrap();
            counted(&attached, &*probe, &disk, 1);
            assert!(attached.counts.get(agent_common::Count::Untracked) > 0);
            assert_eq!(counted(&attached, &*probe, &disk, 64), 64.0);
            assert!(requests.get(&1, 0).is_err(), "the entries that nobody uses are still there");
        }
    }
}
