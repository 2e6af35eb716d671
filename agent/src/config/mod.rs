//! The typed configuration: what every key means, with its default.
//!
//! Parsed once by [`load()`]; the rest of the program sees durations, sizes, enums and [`Secret`]s, never strings to be
//! interpreted. There are no globals. The types and their defaults stand here and in `alerting`; what each key may be in
//! `sections` and `channels`; how a document is walked and its faults are gathered in `reader`.

mod alerting;
mod channels;
mod keys;
mod load;
mod problem;
mod reader;
mod secret;
mod sections;
mod silences;
pub mod templates;
mod text;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use alerting::{
    Alerting, Alertmanager, Discord, Email, Escalation, Grouping, Login, Ntfy, Opsgenie, Outbox, Pagerduty, ParseMode, Responder,
    Slack, SlackAccess, SmtpEncryption, Syslog, SyslogFacility, SyslogFormat, SyslogTarget, Teams, Telegram, Templates, Webhook,
};
pub use load::{known_keys, load, parse, parse_bytes};
pub use problem::{Problem, Problems};
pub use reader::Key;
pub use secret::Secret;
pub use sections::custom_set;

use crate::model::Severity;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[agent]`
    pub agent: Agent,
    /// `[host]`
    pub host: HostRoots,
    /// `[ebpf]`
    pub ebpf: Ebpf,
    /// `[collector]`
    pub collector: Collector,
    /// `[thresholds]`
    pub thresholds: Thresholds,
    /// `[analyzer]`
    pub analyzer: Analyzer,
    /// `[storage]`
    pub storage: Storage,
    /// `[log_analyzer]`
    pub log_analyzer: LogAnalyzer,
    /// `[recorder]`
    pub recorder: Recorder,
    /// `[prometheus]`
    pub prometheus: Prometheus,
    /// `[alerting]`
    pub alerting: Alerting,
}

/// How much the program says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// Also what degrades.
    Warn,
    /// Also what changes.
    #[default]
    Info,
    /// Also what happens.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// All levels with their names in files and on the command line.
    pub const NAMES: [(&str, Self); 5] =
        [("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug), ("trace", Self::Trace)];
}

/// `[agent]`
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Name of this host in alerts; the host's own name where `None`.
    pub hostname: Option<String>,
    /// Interval of the agent's own metrics and of collectors without a key of their own.
    pub collect_interval: Duration,
    /// Verbosity of the program's own log.
    pub log_level: LogLevel,
    /// Where state is kept.
    pub data_dir: PathBuf,
    /// File that holds the process id while the agent runs.
    pub pid_file: Option<PathBuf>,
    /// Processor time of the agent with its BPF programs, in percent of one core, beyond which it does less.
    pub cpu_budget_percent: f64,
    /// Resident memory and BPF maps in bytes beyond which the agent does less.
    pub memory_budget: u64,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            hostname: None,
            collect_interval: Duration::from_secs(10),
            log_level: LogLevel::Info,
            data_dir: "/var/lib/sysops-agent".into(),
            pid_file: None,
            cpu_budget_percent: 5.0,
            memory_budget: 64 << 20,
        }
    }
}

/// `[host]`: where the host's file systems are seen from here.
#[derive(Clone, Debug, PartialEq)]
pub struct HostRoots {
    /// The host's procfs.
    pub procfs: PathBuf,
    /// The host's sysfs.
    pub sysfs: PathBuf,
    /// The host's root directory.
    pub rootfs: PathBuf,
}

impl Default for HostRoots {
    fn default() -> Self {
        Self { procfs: "/proc".into(), sysfs: "/sys".into(), rootfs: "/".into() }
    }
}

/// How events travel from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// The ring buffer where the kernel has it, else the perf event array.
    #[default]
    Auto,
    /// BPF ring buffer (kernel 5.8, earlier where backported).
    Ringbuf,
    /// Perf event array.
    Perf,
}

/// `[ebpf]`
#[derive(Clone, Debug, PartialEq)]
pub struct Ebpf {
    /// Whether BPF is used at all.
    pub enabled: bool,
    /// How events travel from the kernel.
    pub transport: Transport,
    /// Names of the probes to load; rows of the table in `probes`.
    pub probes: Vec<String>,
    /// Block requests slower than this become events.
    pub block_io_slow: Duration,
    /// Retransmitted segments of one connection within ten seconds that make an alert.
    pub tcp_retransmit_burst: u32,
}

/// Probes that exist, in the order in which they are listed to users.
pub const PROBES: [&str; 5] = ["oom", "hung_task", "block_io", "tcp_retransmit", "fd"];

impl Default for Ebpf {
    fn default() -> Self {
        Self {
            enabled: true,
            transport: Transport::Auto,
            probes: PROBES.map(String::from).to_vec(),
            block_io_slow: Duration::from_millis(100),
            tcp_retransmit_burst: 5,
        }
    }
}

/// `[collector]`
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// `cpu_interval_secs`
    pub cpu_interval: Duration,
    /// `memory_interval_secs`
    pub memory_interval: Duration,
    /// `disk_interval_secs`: mounts; block devices are read at `[agent] collect_interval_secs`.
    pub disk_interval: Duration,
    /// `network_interval_secs`
    pub network_interval: Duration,
    /// `process_interval_secs`
    pub process_interval: Duration,
    /// `fd_interval_secs`
    pub fd_interval: Duration,
    /// `[collector.process]`
    pub process: ProcessCollector,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            cpu_interval: Duration::from_secs(10),
            memory_interval: Duration::from_secs(10),
            disk_interval: Duration::from_secs(60),
            network_interval: Duration::from_secs(10),
            process_interval: Duration::from_secs(30),
            fd_interval: Duration::from_secs(30),
            process: ProcessCollector::default(),
        }
    }
}

/// A regular expression that compares by its text.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// `[collector.process]`
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessCollector {
    /// Processes followed by CPU, and as many by resident memory.
    pub track_top_n: usize,
    /// Processes followed always: those whose command name or command line matches.
    pub track_patterns: Vec<Pattern>,
}

impl Default for ProcessCollector {
    fn default() -> Self {
        Self { track_top_n: 20, track_patterns: Vec::new() }
    }
}

/// `[thresholds]`
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// `cpu_usage_percent` of all cores together.
    pub cpu_percent: f64,
    /// `memory_usage_percent`.
    pub memory_percent: f64,
    /// `disk_usage_percent` of a mount.
    pub disk_percent: f64,
    /// `disk_inode_usage_percent` of a mount.
    pub disk_inode_percent: f64,
    /// `fd_usage_percent`, of the system and of a process.
    pub fd_percent: f64,
    /// Five-minute load by online CPU.
    pub load_avg_multiplier: f64,
    /// Errors and drops by packet of an interface, as a ratio.
    pub network_error_rate: f64,
    /// Limits of single series, in place of those above or beside them; the first that means a series counts.
    pub overrides: Vec<ThresholdOverride>,
}

/// One of `[[thresholds.overrides]]`. What it does not say is as without it.
#[derive(Clone, Debug, PartialEq)]
pub struct ThresholdOverride {
    /// Name of the metric.
    pub metric: String,
    /// Labels that a series must have to be meant, as expressions for the whole value.
    pub labels: BTreeMap<String, Pattern>,
    /// Whether these series have a limit at all.
    pub enabled: bool,
    /// Whether low values are bad.
    pub below: bool,
    /// The limit.
    pub warn: Option<f64>,
    /// The limit from which it is critical.
    pub critical: Option<f64>,
    /// What the value must come back to.
    pub clear: Option<f64>,
    /// How long a limit must be passed.
    pub hold: Option<Duration>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            cpu_percent: 90.0,
            memory_percent: 85.0,
            disk_percent: 90.0,
            disk_inode_percent: 85.0,
            fd_percent: 80.0,
            load_avg_multiplier: 2.0,
            network_error_rate: 0.01,
            overrides: Vec::new(),
        }
    }
}

/// `[analyzer]`
#[derive(Clone, Debug, PartialEq)]
pub struct Analyzer {
    /// Samples in the window of the z-score.
    pub zscore_window: usize,
    /// Standard deviations.
    pub zscore_threshold: f64,
    /// Weight of the newest sample in the exponential moving average.
    pub ema_alpha: f64,
    /// Window of the linear regression.
    pub trend_window: Duration,
    /// How long growth is watched before it is called a leak.
    pub leak_min_observation: Duration,
    /// Least coefficient of determination of a leak.
    pub leak_r_squared_threshold: f64,
}

impl Default for Analyzer {
    fn default() -> Self {
        Self {
            zscore_window: 360,
            zscore_threshold: 3.0,
            ema_alpha: 0.1,
            trend_window: Duration::from_secs(6 * 3600),
            leak_min_observation: Duration::from_secs(3600),
            leak_r_squared_threshold: 0.8,
        }
    }
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Samples kept by series.
    pub ring_buffer_capacity: usize,
    /// Whether rollups go to SQLite.
    pub sqlite_enabled: bool,
    /// The database; in the data directory where `None`.
    pub sqlite_path: Option<PathBuf>,
    /// Age at which rollups are removed.
    pub sqlite_retention: Duration,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            ring_buffer_capacity: 8640,
            sqlite_enabled: false,
            sqlite_path: None,
            sqlite_retention: Duration::from_secs(30 * 86_400),
        }
    }
}

/// Where log lines come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSourceName {
    /// `/dev/kmsg`
    Dmesg,
    /// The systemd journal.
    Journal,
    /// A syslog file.
    Syslog,
}

/// One of `log_analyzer.custom_patterns`.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomPattern {
    /// What to look for.
    pub pattern: Pattern,
    /// How bad a match is.
    pub severity: Severity,
    /// What a match is called.
    pub name: String,
}

/// `[log_analyzer]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogAnalyzer {
    /// Whether logs are read.
    pub enabled: bool,
    /// Which logs.
    pub sources: Vec<LogSourceName>,
    /// The syslog file; found by itself where `None`.
    pub syslog_path: Option<PathBuf>,
    /// Patterns beside the built-in ones.
    pub custom_patterns: Vec<CustomPattern>,
}

impl Default for LogAnalyzer {
    fn default() -> Self {
        Self {
            enabled: true,
            sources: vec![LogSourceName::Dmesg, LogSourceName::Journal, LogSourceName::Syslog],
            syslog_path: None,
            custom_patterns: Vec::new(),
        }
    }
}

/// `[recorder]`
#[derive(Clone, Debug, PartialEq)]
pub struct Recorder {
    /// Whether the flight recorder runs.
    pub enabled: bool,
    /// Where it writes; `recorder` in the data directory where `None`.
    pub dir: Option<PathBuf>,
    /// How far back it reaches.
    pub window: Duration,
    /// How long a bundle goes on after its alert.
    pub post: Duration,
    /// Most that it keeps on disk, in bytes.
    pub max_size: u64,
    /// Most that a crash may lose.
    pub flush_interval: Duration,
    /// Alerts from this severity on write a bundle.
    pub dump_severity: Severity,
    /// Bundles kept.
    pub max_bundles: usize,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: None,
            window: Duration::from_secs(3600),
            post: Duration::from_secs(120),
            max_size: 64 << 20,
            flush_interval: Duration::from_secs(2),
            dump_severity: Severity::Critical,
            max_bundles: 20,
        }
    }
}

/// `[prometheus]`
#[derive(Clone, Debug, PartialEq)]
pub struct Prometheus {
    /// Whether the endpoint is served.
    pub enabled: bool,
    /// Address to listen on.
    pub bind: std::net::SocketAddr,
    /// Path of the endpoint.
    pub path: String,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self { enabled: false, bind: std::net::SocketAddr::from(([127, 0, 0, 1], 9100)), path: "/metrics".into() }
    }
}
