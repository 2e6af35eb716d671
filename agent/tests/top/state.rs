//! A host in trouble, composed of observations.

use jiff::tz::TimeZone;
use sysops_agent::commands::top::{Circumstances, View};
use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::model::{
    Evidence, KernelEvent, Labels, LogRecord, Metric, Observation, Sample, Samples, SeriesKey, SourceState, Timestamp, Unit,
};
use sysops_agent::runtime::Passing;

/// A metric, the names and values of its labels, and its value.
type Value<'a> = (&'static str, &'a [(&'static str, &'a str)], f64);

/// An engine with what came by it.
pub struct State {
    pub engine: Engine,
    pub passing: Passing,
    pub now: Timestamp,
}

/// The time `secs` seconds after the start.
pub fn time(secs: i64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + secs)
}

impl State {
    pub fn new() -> Self {
        Self { engine: Engine::new(&Config::default(), "web-01"), passing: Passing::default(), now: time(0) }
    }

    pub fn observe(&mut self, observation: Observation) {
        self.passing.note(self.now, &observation);
        self.engine.observe(self.now, observation, &mut Vec::new());
    }

    /// One run of a collector.
    pub fn collect(&mut self, collector: &'static str, values: &[Value<'_>]) {
        let sample = |(name, labels, value): &Value<'_>| {
            let labels = labels.iter().fold(Labels::new(), |labels, (name, value)| labels.with(*name, *value));
            // The few that a test makes live as long as it.
            let metric: &'static Metric = Box::leak(Box::new(Metric::gauge(name, Unit::Count, "")));
            Sample { series: SeriesKey::new(metric, labels), value: *value }
        };
        let values = values.iter().map(sample).collect();
        self.observe(Observation::Samples(Samples { collector, values }));
    }

    pub fn event(&mut self, comm: &str, pid: u32) {
        self.observe(Observation::Event(Box::new(KernelEvent {
            metric: "kernel_oom_kill",
            labels: Labels::new().with("comm", comm).with("pid", pid.to_string()),
            value: 1.0,
            threshold: None,
            count: 1,
            message: format!("OOM killer killed {comm} (pid {pid}), 512 MiB resident: the host ran out of memory"),
            source: "probe",
            evidence: Evidence::new(),
        })));
    }

    pub fn log(&mut self, level: u8, text: &str) {
        self.observe(Observation::Log(LogRecord {
            source: "kmsg",
            level: Some(level),
            is_kernel: true,
            written: None,
            text: text.into(),
            facts: Evidence::new(),
        }));
    }

    pub fn probe(&mut self, signal: &'static str, probed: bool) {
        self.observe(Observation::Source(SourceState { signal, probed }));
    }

    pub fn view(&self) -> View {
        let circumstances = Circumstances {
            hostname: "web-01".into(),
            kernel: "6.12.57-1-amd64".into(),
            since: time(0),
            now: self.now,
            zone: TimeZone::UTC,
            bpf_map_bytes: 2_024_384,
            bpf_program_percent: Some(0.12),
        };
        View::of(&self.engine, &self.passing, &circumstances)
    }
}

/// The names that a process, a device, an interface and a mount have on this host.
pub struct Names {
    pub comm: &'static str,
    pub device: &'static str,
    pub interface: &'static str,
    pub mount: &'static str,
}

pub const FRIENDLY: Names = Names { comm: "postgres", device: "nvme0n1", interface: "eth0", mount: "/var/lib/postgresql" };

/// Names that whoever may make a process, a file or a device may give.
pub const HOSTILE: Names =
    Names {
        comm: "a\x1b[2J\u{9b}m\n", device: "sd\u{202e}a", interface: "e\r\x07\u{8}", mount: "/mnt/\x1b]0;x\x07 数据\u{301}"
    };

/// A host whose memory ran out a moment ago.
pub fn busy(names: &Names) -> State {
    let mut state = State::new();
    for signal in ["oom", "hung_task", "block_io", "tcp_retransmit"] {
        state.probe(signal, true);
    }
    state.probe("fd", false);
    state.probe("kmsg", true);
    for run in 0..2 {
        let n = f64::from(run);
        state.now = time(2 * i64::from(run));
        state.collect("kernel", &[("kernel_uptime_seconds", &[], 273_845.0 + 2.0 * n)]);
        state.collect(
            "cpu",
            &[
                ("cpu_processors_online", &[], 8.0),
                ("cpu_usage_percent", &[("core", "all")], 84.2),
                ("cpu_usage_percent", &[("core", "0")], 12.0),
                ("cpu_user_percent", &[("core", "all")], 60.1),
                ("cpu_system_percent", &[("core", "all")], 24.1),
                ("cpu_iowait_percent", &[("core", "all")], 9.8),
                ("cpu_irq_percent", &[("core", "all")], 0.2),
                ("cpu_softirq_percent", &[("core", "all")], 0.3),
                ("cpu_steal_percent", &[("core", "all")], 1.5),
                ("cpu_tasks_running", &[], 11.0),
                ("cpu_tasks_blocked", &[], 2.0),
                ("cpu_load_1m", &[], 11.52),
                ("cpu_load_5m", &[], 7.9),
                ("cpu_load_15m", &[], 4.333),
            ],
        );
        state.collect(
            "memory",
            &[
                ("memory_total_bytes", &[], 33_554_432_000.0),
                ("memory_used_bytes", &[], 31_100_000_000.0),
                ("memory_usage_percent", &[], 92.7),
                ("memory_cached_bytes", &[], 1_073_741_824.0),
                ("memory_dirty_bytes", &[], 73_400_320.0),
                ("memory_swap_total_bytes", &[], 2_147_483_648.0),
                ("memory_swap_used_bytes", &[], 1_610_612_736.0),
                ("memory_swap_usage_percent", &[], 75.0),
            ],
        );
        let pressure = |resource, share| [("resource", resource), ("share", share), ("window", "10s")];
        state.collect(
            "pressure",
            &[
                ("pressure_stalled_percent", &pressure("cpu", "some"), 12.34),
                ("pressure_stalled_percent", &pressure("io", "some"), 31.0),
                ("pressure_stalled_percent", &pressure("io", "full"), 9.5),
                ("pressure_stalled_percent", &pressure("memory", "some"), 71.5),
                ("pressure_stalled_percent", &pressure("memory", "full"), 44.0),
                ("pressure_stalled_percent", &[("resource", "io"), ("share", "some"), ("window", "300s")], 1.0),
            ],
        );
        let (device, idle) = ([("device", names.device)], [("device", "sdb")]);
        state.collect(
            "disk_io",
            &[
                ("disk_read_bytes_total", &device, 1e9 + n * 25_165_824.0),
                ("disk_written_bytes_total", &device, 1e9 + n * 200_000.0),
                ("disk_utilization_percent", &device, 97.0),
                ("disk_await_seconds", &device, 0.0145),
                // It was reset: no rate can be told.
                ("disk_read_bytes_total", &idle, 500.0 - n),
                ("disk_utilization_percent", &idle, 0.0),
            ],
        );
        let (interface, lo) = ([("interface", names.interface)], [("interface", "lo")]);
        state.collect(
            "network",
            &[
                ("network_receive_bytes_total", &interface, 5e9 + n * 2_500_000.0),
                ("network_transmit_bytes_total", &interface, 5e9 + n * 300.0),
                ("network_receive_bytes_total", &lo, 10.0),
                ("network_transmit_bytes_total", &lo, 10.0),
            ],
        );
        let (root, data) = ([("mount", "/")], [("mount", names.mount)]);
        state.collect(
            "disk",
            &[
                ("disk_usage_percent", &root, 41.0),
                ("disk_available_bytes", &root, 64e9),
                ("disk_usage_percent", &data, 95.5),
                ("disk_available_bytes", &data, 12.5e9),
                ("agent_collector_success", &[("collector", "disk")], 0.0),
            ],
        );
        let mut processes = vec![];
        let pids = [("812", names.comm, 310.0, 9e9, 42.0), ("1", "systemd", 0.1, 14e6, 1.0), ("977", "node", 55.5, 12e9, 11.0)];
        let labels = pids.map(|(pid, comm, ..)| [("pid", pid), ("comm", comm)]);
        for (labels, (.., cpu, rss, threads)) in labels.iter().zip(pids) {
            if run == 1 {
                processes.push(("process_cpu_percent", labels.as_slice(), cpu));
            }
            processes.push(("process_rss_bytes", labels, rss));
            processes.push(("process_threads", labels, threads));
        }
        processes.push(("process_open_fds", &labels[0], 1021.0));
        let gone = [("pid", "4711"), ("comm", "gone")];
        if run == 0 {
            processes.push(("process_rss_bytes", &gone, 1e9));
        }
        let totals =
            [("process_pids", 231.0), ("process_all_threads", 902.0), ("process_zombies", 1.0), ("process_uninterruptible", 2.0)];
        processes.extend(totals.map(|(name, value)| (name, &[] as &[_], value)));
        state.collect("process", &processes);
        state.collect("agent", &[("agent_cpu_percent", &[], 0.62), ("agent_rss_bytes", &[], 14_680_064.0)]);
    }
    state.now = time(3);
    state.log(6, "a line that is only informative");
    state.event(names.comm, 812);
    state.now = time(5);
    state.log(3, "EXT4-fs error (device sdb1): ext4_find_entry:1455: inode #2: comm sh: reading directory lblock 0");
    state.log(4, "a line of a dump");
    state.log(3, &format!("{} is told of in an error", names.comm));
    state.now = time(128);
    state
}
