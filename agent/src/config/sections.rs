//! The keys of all sections but `[alerting]`: type, range and default of each.

use regex::RegexSet;

use super::channels::alerting;
use super::reader::Section;
use super::value::Form;
use super::{
    Agent, Analyzer, Collector, Config, CustomPattern, Ebpf, HostRoots, LogAnalyzer, LogLevel, LogSourceName, PROBES,
    ProcessCollector, Prometheus, Recorder, Storage, ThresholdOverride, Thresholds, Transport, text,
};

/// Longest interval, in seconds: a day.
pub(super) const DAY: u64 = 86_400;

const TRANSPORTS: [(&str, Transport); 3] =
    [("auto", Transport::Auto), ("ringbuf", Transport::Ringbuf), ("perf", Transport::Perf)];

const LOG_SOURCES: [(&str, LogSourceName); 3] =
    [("dmesg", LogSourceName::Dmesg), ("journal", LogSourceName::Journal), ("syslog", LogSourceName::Syslog)];

/// Reads the whole document.
pub(super) fn read(mut root: Section<'_>) -> Config {
    let config = Config {
        agent: root.section("agent", agent),
        host: root.section("host", host),
        ebpf: root.section("ebpf", ebpf),
        collector: root.section("collector", collector),
        thresholds: root.section("thresholds", thresholds),
        analyzer: root.section("analyzer", analyzer),
        storage: root.section("storage", storage),
        log_analyzer: root.section("log_analyzer", log_analyzer),
        recorder: root.section("recorder", recorder),
        prometheus: root.section("prometheus", prometheus),
        alerting: root.section("alerting", alerting),
    };
    root.finish();
    config
}

fn agent(s: &mut Section<'_>) -> Agent {
    let default = Agent::default();
    Agent {
        hostname: s.optional("hostname", "a host name", text::word),
        collect_interval: s.secs("collect_interval_secs", 1..=DAY, default.collect_interval),
        log_level: s.choice("log_level", &LogLevel::NAMES, default.log_level),
        data_dir: s.path("data_dir", default.data_dir),
        pid_file: s.optional_path("pid_file"),
        cpu_budget_percent: s.percent_from("cpu_budget_percent", 0.1, default.cpu_budget_percent),
        memory_budget: s.mebibytes("memory_budget_mb", 16..=65_536, default.memory_budget),
    }
}

fn host(s: &mut Section<'_>) -> HostRoots {
    let default = HostRoots::default();
    HostRoots {
        procfs: s.path("procfs", default.procfs),
        sysfs: s.path("sysfs", default.sysfs),
        rootfs: s.path("rootfs", default.rootfs),
    }
}

fn ebpf(s: &mut Section<'_>) -> Ebpf {
    let default = Ebpf::default();
    let names = PROBES.map(|name| (name, name));
    Ebpf {
        enabled: s.boolean("enabled", default.enabled),
        transport: s.choice("transport", &TRANSPORTS, default.transport),
        probes: s.choices("probes", &names, PROBES.to_vec()).into_iter().map(String::from).collect(),
        block_io_slow: s.millis("block_io_slow_ms", 1..=600_000, default.block_io_slow),
        tcp_retransmit_burst: s.integer("tcp_retransmit_burst", 1..=1_000_000, default.tcp_retransmit_burst),
    }
}

fn collector(s: &mut Section<'_>) -> Collector {
    let default = Collector::default();
    Collector {
        cpu_interval: s.secs("cpu_interval_secs", 1..=DAY, default.cpu_interval),
        memory_interval: s.secs("memory_interval_secs", 1..=DAY, default.memory_interval),
        disk_interval: s.secs("disk_interval_secs", 1..=DAY, default.disk_interval),
        network_interval: s.secs("network_interval_secs", 1..=DAY, default.network_interval),
        process_interval: s.secs("process_interval_secs", 1..=DAY, default.process_interval),
        fd_interval: s.secs("fd_interval_secs", 1..=DAY, default.fd_interval),
        process: s.section("process", |s| ProcessCollector {
            track_top_n: s.integer("track_top_n", 0..=1000, default.process.track_top_n),
            track_patterns: s.patterns("track_patterns", default.process.track_patterns),
        }),
    }
}

fn thresholds(s: &mut Section<'_>) -> Thresholds {
    let default = Thresholds::default();
    let table = "{ metric = \"…\", labels = { … }, warn = … }";
    let tables = Form::new("an array of tables", format!("a list of {table}"));
    let table = Form::new("a table", table);
    Thresholds {
        cpu_percent: s.percent("cpu_percent", default.cpu_percent),
        memory_percent: s.percent("memory_percent", default.memory_percent),
        disk_percent: s.percent("disk_percent", default.disk_percent),
        disk_inode_percent: s.percent("disk_inode_percent", default.disk_inode_percent),
        fd_percent: s.percent("fd_percent", default.fd_percent),
        load_avg_multiplier: s.positive("load_avg_multiplier", 1000.0, default.load_avg_multiplier),
        network_error_rate: s.ratio("network_error_rate", default.network_error_rate),
        overrides: s.tables("overrides", &tables, &table, threshold_override).unwrap_or_default(),
    }
}

fn threshold_override(s: &mut Section<'_>) -> Option<ThresholdOverride> {
    let metric = s.required_string("metric", "the name of a metric", text::line);
    let labels = Form::new("a table of strings", "{ name = \"expression\" }");
    let labels =
        s.entries("labels", &labels, &Form::new("a string", text::PATTERN), |_, value| value.text_as(text::whole_pattern));
    let enabled = s.boolean("enabled", true);
    let below = s.boolean("below", false);
    let [warn, critical, clear] = ["warn", "critical", "clear"].map(|key| s.limit(key));
    let hold = s.optional_secs("hold_secs", 0..=DAY);
    // From good to bad.
    let in_order = |good: Option<f64>, bad: Option<f64>| {
        good.zip(bad).is_none_or(|(good, bad)| if below { good >= bad } else { good <= bad })
    };
    let side = if below { "at or above" } else { "at or below" };
    for (good, bad, value) in
        [("warn", "critical", (warn, critical)), ("clear", "warn", (clear, warn)), ("clear", "critical", (clear, critical))]
    {
        if !in_order(value.0, value.1) {
            s.lacks(good, &format!("is past {bad}"), &Form::new("a number", format!("a number {side} {bad}")));
        }
    }
    Some(ThresholdOverride { metric: metric?, labels, enabled, below, warn, critical, clear, hold })
}

fn analyzer(s: &mut Section<'_>) -> Analyzer {
    let default = Analyzer::default();
    Analyzer {
        // Fewer than two samples have no standard deviation.
        zscore_window: s.integer("zscore_window", 2..=100_000, default.zscore_window),
        zscore_threshold: s.positive("zscore_threshold", 100.0, default.zscore_threshold),
        ema_alpha: s.ratio("ema_alpha", default.ema_alpha),
        trend_window: s.hours("trend_window_hours", 1..=8760, default.trend_window),
        leak_min_observation: s.hours("leak_min_observation_hours", 1..=8760, default.leak_min_observation),
        leak_r_squared_threshold: s.ratio("leak_r_squared_threshold", default.leak_r_squared_threshold),
    }
}

fn storage(s: &mut Section<'_>) -> Storage {
    let default = Storage::default();
    Storage {
        ring_buffer_capacity: s.integer("ring_buffer_capacity", 10..=1_000_000, default.ring_buffer_capacity),
        sqlite_enabled: s.boolean("sqlite_enabled", default.sqlite_enabled),
        sqlite_path: s.optional_path("sqlite_path"),
        sqlite_retention: s.days("sqlite_retention_days", 1..=3650, default.sqlite_retention),
    }
}

fn log_analyzer(s: &mut Section<'_>) -> LogAnalyzer {
    let default = LogAnalyzer::default();
    let table = "{ pattern = \"…\", severity = \"…\", name = \"…\" }";
    let tables = Form::new("an array of tables", format!("a list of {table}"));
    let table = Form::new("a table", table);
    let log_analyzer = LogAnalyzer {
        enabled: s.boolean("enabled", default.enabled),
        sources: s.choices("sources", &LOG_SOURCES, default.sources),
        syslog_path: s.optional_path("syslog_path"),
        custom_patterns: s.tables("custom_patterns", &tables, &table, custom_pattern).unwrap_or(default.custom_patterns),
    };
    if let Err(reason) = custom_set(&log_analyzer.custom_patterns) {
        s.lacks("custom_patterns", &reason, &Form::new("an array of tables", "fewer or simpler patterns"));
    }
    log_analyzer
}

fn custom_pattern(s: &mut Section<'_>) -> Option<CustomPattern> {
    let pattern = s.required_string("pattern", text::PATTERN, text::log_pattern);
    let severity = s.required_severity("severity");
    let name = s.required_string("name", "a short name", text::line);
    Some(CustomPattern { pattern: pattern?, severity: severity?, name: name? })
}

/// The patterns as one set.
///
/// # Errors
/// How a sentence goes on that begins with them: they are too large together.
pub fn custom_set(patterns: &[CustomPattern]) -> Result<RegexSet, String> {
    text::log_patterns(patterns.iter().map(|custom| &custom.pattern))
}

fn recorder(s: &mut Section<'_>) -> Recorder {
    let default = Recorder::default();
    Recorder {
        enabled: s.boolean("enabled", default.enabled),
        dir: s.optional_path("dir"),
        window: s.minutes("window_minutes", 1..=10_080, default.window),
        post: s.minutes("post_minutes", 0..=1440, default.post),
        max_size: s.mebibytes("max_size_mb", 1..=1_048_576, default.max_size),
        flush_interval: s.secs("flush_interval_secs", 1..=60, default.flush_interval),
        dump_severity: s.severity("dump_severity", default.dump_severity),
        max_bundles: s.integer("max_bundles", 1..=10_000, default.max_bundles),
    }
}

fn prometheus(s: &mut Section<'_>) -> Prometheus {
    let default = Prometheus::default();
    let bind = "an IP address with a port such as \"127.0.0.1:9100\" or \"[::1]:9100\"";
    Prometheus {
        enabled: s.boolean("enabled", default.enabled),
        bind: s.string("bind", bind, text::socket_address, default.bind),
        path: s.string("path", "a path such as \"/metrics\"", text::url_path, default.path),
    }
}
