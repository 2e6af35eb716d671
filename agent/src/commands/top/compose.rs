//! Fills a screen from the engine and what came by it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use jiff::tz::TimeZone;

use super::view::{
    Circumstances, Cost, Cpu, Disk, Event, FileSystem, HostView, Interface, Memory, Open, Pressure, Process, Processes,
    SignalView, Sort, View, sort,
};
use crate::engine::{Engine, Incident, SeriesId};
use crate::model::{SeriesKey, Severity, Timestamp};
use crate::probes::PROBES;
use crate::runtime::Passing;

impl View {
    /// The screen of a moment.
    pub fn of(engine: &Engine, passing: &Passing, at: &Circumstances) -> Self {
        let latest = Latest::of(engine, passing);
        let flag = |name| passing.probed.get(name).copied().unwrap_or(false);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            time: rfc3339(at.now, &at.zone),
            watched_seconds: at.now.since(at.since).as_secs_f64(),
            host: HostView {
                name: at.hostname.clone(),
                kernel: at.kernel.clone(),
                uptime_seconds: latest.one("kernel_uptime_seconds"),
                cores: latest.count("cpu_processors_online"),
                load: ["cpu_load_1m", "cpu_load_5m", "cpu_load_15m"].map(|name| latest.one(name)),
            },
            agent: Cost {
                cpu_percent: latest.one("agent_cpu_percent"),
                rss_bytes: latest.count("agent_rss_bytes"),
                bpf_map_bytes: at.bpf_map_bytes,
                bpf_program_percent: at.bpf_program_percent,
                series: engine.store().len() as u64,
            },
            signals: PROBES.iter().map(|row| SignalView { signal: row.name, probe: flag(row.name) }).collect(),
            kernel_log_read: flag("kmsg"),
            collectors_failing: latest.failing(),
            cpu: cpu(&latest),
            memory: memory(&latest),
            pressure: pressure(&latest),
            disks: disks(&latest),
            file_systems: file_systems(&latest),
            networks: networks(&latest),
            processes: processes(&latest),
            events: passing
                .told
                .iter()
                .rev()
                .map(|told| Event { time: rfc3339(told.at, &at.zone), source: told.source, text: told.text.clone() })
                .collect(),
            alerts: alerts(engine, at),
        }
    }
}

/// The values that the last run of each collector gave. What an earlier one gave and the last did not is over.
struct Latest<'a> {
    engine: &'a Engine,
    by_metric: HashMap<&'static str, Vec<(SeriesId, &'a SeriesKey, f64)>>,
}

impl<'a> Latest<'a> {
    fn of(engine: &'a Engine, passing: &Passing) -> Self {
        let mut by_metric: HashMap<_, Vec<_>> = HashMap::new();
        for (id, key) in engine.store().series() {
            let name = key.metric().name;
            // What is said about a collector comes with what it collects.
            let collector = key.labels().get("collector").or_else(|| passing.collector_of.get(name).copied());
            let Some((ran, _)) = collector.and_then(|collector| passing.runs.get(collector)) else { continue };
            let Some((at, value)) = engine.store().latest(id) else { continue };
            if at == *ran {
                by_metric.entry(name).or_default().push((id, key, value));
            }
        }
        Self { engine, by_metric }
    }

    fn all(&self, metric: &str) -> impl Iterator<Item = &(SeriesId, &'a SeriesKey, f64)> {
        self.by_metric.get(metric).into_iter().flatten()
    }

    /// The value of the series with exactly this label, or with none.
    fn labelled(&self, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |key: &SeriesKey| key.labels().iter().eq(labels.iter().copied());
        self.all(metric).find(|(_, key, _)| fits(key)).map(|(.., value)| *value)
    }

    fn one(&self, metric: &str) -> Option<f64> {
        self.labelled(metric, &[])
    }

    fn count(&self, metric: &str) -> Option<u64> {
        self.one(metric).map(whole)
    }

    fn failing(&self) -> Vec<String> {
        let failing = self.all("agent_collector_success").filter(|(.., value)| *value == 0.0);
        let mut names: Vec<String> = failing.filter_map(|(_, key, _)| Some(key.labels().get("collector")?.to_owned())).collect();
        names.sort_unstable();
        names
    }

    /// How fast a counter rose between its last two readings; `None` where there is one, or where it went backwards.
    fn rate(&self, id: SeriesId) -> Option<f64> {
        let mut newest = self.engine.store().newest(id);
        let ((now, value), (then, before)) = (newest.next()?, newest.next()?);
        let seconds = now.since(then).as_secs_f64();
        (seconds > 0.0 && value >= before).then(|| (value - before) / seconds)
    }

    /// By the value of one label: for each of the metrics its value, or its rate where it is a counter.
    fn table<const N: usize>(&self, label: &str, metrics: [&'static str; N]) -> BTreeMap<&'a str, [Option<f64>; N]> {
        let mut table: BTreeMap<&str, [Option<f64>; N]> = BTreeMap::new();
        for (column, metric) in metrics.into_iter().enumerate() {
            for (id, key, value) in self.all(metric) {
                let Some(subject) = key.labels().get(label) else { continue };
                let cells = table.entry(subject).or_insert([None; N]);
                let value = if metric.ends_with("_total") { self.rate(*id) } else { Some(*value) };
                if let Some(cell) = cells.get_mut(column) {
                    *cell = value;
                }
            }
        }
        table
    }
}

fn cpu(latest: &Latest<'_>) -> Cpu {
    let share = |metric| latest.labelled(metric, &[("core", "all")]);
    Cpu {
        usage_percent: share("cpu_usage_percent"),
        user_percent: share("cpu_user_percent"),
        system_percent: share("cpu_system_percent"),
        iowait_percent: share("cpu_iowait_percent"),
        irq_percent: share("cpu_irq_percent"),
        softirq_percent: share("cpu_softirq_percent"),
        steal_percent: share("cpu_steal_percent"),
        running: latest.count("cpu_tasks_running"),
        blocked: latest.count("cpu_tasks_blocked"),
    }
}

fn memory(latest: &Latest<'_>) -> Memory {
    Memory {
        total_bytes: latest.count("memory_total_bytes"),
        used_bytes: latest.count("memory_used_bytes"),
        usage_percent: latest.one("memory_usage_percent"),
        cached_bytes: latest.count("memory_cached_bytes"),
        dirty_bytes: latest.count("memory_dirty_bytes"),
        swap_total_bytes: latest.count("memory_swap_total_bytes"),
        swap_used_bytes: latest.count("memory_swap_used_bytes"),
        swap_usage_percent: latest.one("memory_swap_usage_percent"),
    }
}

fn pressure(latest: &Latest<'_>) -> Vec<Pressure> {
    let mut found: BTreeMap<&str, [Option<f64>; 2]> = BTreeMap::new();
    for (_, key, value) in latest.all("pressure_stalled_percent") {
        let label = |name| key.labels().get(name);
        let (Some(resource), Some(share), Some("10s")) = (label("resource"), label("share"), label("window")) else { continue };
        let [some, full] = found.entry(resource).or_default();
        *(if share == "full" { full } else { some }) = Some(*value);
    }
    let pressure = |(resource, [some_percent, full_percent]): (&str, [Option<f64>; 2])| Pressure {
        resource: resource.to_owned(),
        some_percent,
        full_percent,
    };
    found.into_iter().map(pressure).collect()
}

fn disks(latest: &Latest<'_>) -> Vec<Disk> {
    let metrics = ["disk_read_bytes_total", "disk_written_bytes_total", "disk_utilization_percent", "disk_await_seconds"];
    let disk = |(device, [read, written, utilization_percent, await_seconds]): (&str, [Option<f64>; 4])| Disk {
        device: device.to_owned(),
        read_bytes_per_second: read,
        written_bytes_per_second: written,
        utilization_percent,
        await_seconds,
    };
    let mut disks: Vec<Disk> = latest.table("device", metrics).into_iter().map(disk).collect();
    let busy = |disk: &Disk| {
        let bytes = disk.read_bytes_per_second.unwrap_or(0.0) + disk.written_bytes_per_second.unwrap_or(0.0);
        (disk.utilization_percent.unwrap_or(0.0), bytes)
    };
    // Sorting is stable: equals stay in the order of their names.
    disks.sort_by(|a, b| {
        let ((a, a_bytes), (b, b_bytes)) = (busy(a), busy(b));
        b.total_cmp(&a).then(b_bytes.total_cmp(&a_bytes))
    });
    disks
}

fn file_systems(latest: &Latest<'_>) -> Vec<FileSystem> {
    let table = latest.table("mount", ["disk_usage_percent", "disk_available_bytes"]);
    let file_system = |(mount, [usage, available]): (&str, [Option<f64>; 2])| {
        Some(FileSystem { mount: mount.to_owned(), usage_percent: usage?, available_bytes: available.map(whole) })
    };
    let mut file_systems: Vec<FileSystem> = table.into_iter().filter_map(file_system).collect();
    file_systems.sort_by(|a, b| b.usage_percent.total_cmp(&a.usage_percent));
    file_systems
}

fn networks(latest: &Latest<'_>) -> Vec<Interface> {
    let table = latest.table("interface", ["network_receive_bytes_total", "network_transmit_bytes_total"]);
    let interface = |(name, [receive_bytes_per_second, transmit_bytes_per_second]): (&str, [Option<f64>; 2])| Interface {
        interface: name.to_owned(),
        receive_bytes_per_second,
        transmit_bytes_per_second,
    };
    let mut networks: Vec<Interface> = table.into_iter().map(interface).collect();
    let busy =
        |network: &Interface| network.receive_bytes_per_second.unwrap_or(0.0) + network.transmit_bytes_per_second.unwrap_or(0.0);
    networks.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    networks
}

fn processes(latest: &Latest<'_>) -> Processes {
    let metrics = ["process_cpu_percent", "process_rss_bytes", "process_threads", "process_open_fds"];
    let mut found: BTreeMap<u64, Process> = BTreeMap::new();
    for metric in metrics {
        for (_, key, value) in latest.all(metric) {
            let label = |name| key.labels().get(name);
            let Some(pid) = label("pid").and_then(|pid| pid.parse().ok()) else { continue };
            let comm = || label("comm").unwrap_or_default().to_owned();
            let process = found.entry(pid).or_insert_with(|| Process { pid, comm: comm(), ..Process::default() });
            match metric {
                "process_cpu_percent" => process.cpu_percent = Some(*value),
                "process_rss_bytes" => process.rss_bytes = Some(whole(*value)),
                "process_threads" => process.threads = Some(whole(*value)),
                _ => process.fds = Some(whole(*value)),
            }
        }
    }
    let mut top: Vec<Process> = found.into_values().collect();
    sort(&mut top, Sort::Cpu);
    Processes {
        count: latest.count("process_pids"),
        threads: latest.count("process_all_threads"),
        zombies: latest.count("process_zombies"),
        uninterruptible: latest.count("process_uninterruptible"),
        top,
    }
}

fn alerts(engine: &Engine, at: &Circumstances) -> Vec<Open> {
    let mut open: Vec<_> = engine.open_incidents().collect();
    open.sort_by_key(|incident| Reverse((incident.severity, incident.started)));
    let alert = |incident: &Incident| Open {
        id: incident.id.clone(),
        severity: Severity::as_str(incident.severity),
        metric: incident.metric.clone(),
        labels: incident.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        message: incident.message.clone(),
        since: rfc3339(incident.started, &at.zone),
        age_seconds: at.now.since(incident.started).as_secs(),
        count: incident.count,
    };
    open.into_iter().map(alert).collect()
}

/// The time in a zone, to the second.
fn rfc3339(at: Timestamp, zone: &TimeZone) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default().to_zoned(zone.clone());
    time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// A count or a number of bytes, which the store keeps as a float.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "such a cast saturates")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}
