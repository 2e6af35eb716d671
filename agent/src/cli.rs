//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::LogLevel;
use crate::model::{Severity, Timestamp};

/// Where the configuration is where nothing else is said.
pub const DEFAULT_CONFIG: &str = "/etc/sysops-agent/config.toml";

const EXIT_STATUS: &str = "Exit status: 0 when stopped by SIGTERM or SIGINT, 1 when the configuration is bad or the agent cannot run, \
2 for wrong arguments. SIGHUP reads the configuration again.";

const TOP_HELP: &str = "\
It looks with collectors and probes of its own, as far as the user may, and needs no running agent; alerts are those that began since
its start, and nobody else is told of them. Keys: q quits, p sorts processes by CPU or memory, arrows and page keys scroll.

--once prints plain text for a screen of COLUMNS by LINES, else of the terminal, else of 80 by 24.

--json prints one object. Its keys: version, time, watched_seconds, host, agent, signals, kernel_log_read, collectors_failing, cpu,
memory, pressure, disks, file_systems, networks, processes (with the list top), events, alerts. The keys inside end in their unit;
null is what this host does not tell. Keys may be added, and none is taken away or given another meaning.

Exit status: 0; 1 when the configuration is bad, there is no terminal, or the terminal goes away.";

const SCAN_HELP: &str = "\
A line may be of dmesg (with seconds, with dates as of -T, with ISO times, -r, -x), of syslog (RFC 3164 and RFC 5424), of journalctl
(-o short, -o json), or of the kernel without any time; a file may also be of journalctl -o export. Lines of programs are looked at for the
configuration's patterns alone.

--json prints an object a line with the keys pattern, severity, metric, time (RFC 3339, null where the line has none),
uptime_seconds, labels, message, file, line.

Exit status: 0 when something matched, 1 when nothing did, 2 when a file cannot be read or the configuration is bad.";

const REPLAY_HELP: &str = "\
FILE is a recording, with one JSON object a line, or comma-separated values of one series: a time and a value, or columns of which a
header names these. Times are RFC 3339, YYYY-MM-DD HH:MM:SS in UTC, or Unix seconds or milliseconds. A line of a recording has the key
at, and one of samples, event, log and source:

  {\"at\":\"2026-02-22T16:30:00Z\",\"samples\":{\"collector\":\"cpu\",\"values\":[{\"metric\":\"cpu_load_1m\",\"value\":0.5}]}}
  {\"at\":\"2026-02-22T16:30:01Z\",\"log\":{\"source\":\"kmsg\",\"text\":\"...\"}}

Prints {\"finding\":...} and {\"alert\":...}, and with --scores a line {\"timestamp\":...,\"value\":...,\"score\":...} for each row, in their
order: the score, from 0 to 1, says how unusual the value is after those before it. The value is null where the row has none.

Exit status: 0; 1 when the configuration is bad or the file cannot be read; 3 when bad lines were left out, which are told of.";

const ALERTS_HELP: &str = "\
It reads alerts.db in the data_dir, whether the agent runs or not. Under each alert stand the incident's id and what came of it at each
channel: accepted, waits, given up and why.

--json prints an object a line with the keys of the webhook's body and number, silenced_by, channels.

Exit status: 0; 1 when the outbox cannot be read or the configuration is bad.";

const SILENCE_HELP: &str = "\
A MATCHER is NAME=VALUE, NAME!=VALUE, NAME=~REGEX or NAME!~REGEX; NAME is a label of the alert, metric, severity or hostname, and a regular
expression has to match the whole value. Alerts that all of them match are kept back while the silence lasts; an incident that goes on
when it ends is told then, and the end of one that was told before is told in any case.

  sysops-agent silence add --for 2h --comment 'disk is being replaced' device=sdb metric=~'disk_.*|kernel_block_.*'

Silences that come again every week stand in the configuration.";

const TEST_HELP: &str = "\
A message that says that it is a test goes to every channel that the configuration enables, or to those named, whatever their
severities and limits; once, without a further attempt. What the service answered is printed, a line for each channel.

Exit status: 0 when every channel accepted it, 1 when one did not, or the configuration is bad.";

/// Watches a Linux host through eBPF and /proc and sends alerts that hold the evidence.
#[derive(Debug, Parser)]
#[command(name = "sysops-agent", version, about, args_conflicts_with_subcommands = true, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// Which configuration, and how talkative.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Configuration file
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Verbosity of the program's own log, over the configuration's
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<LogLevel>,
}

/// Run in the foreground.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Which configuration, and how talkative.
    #[command(flatten)]
    pub common: Common,
    /// Check the configuration and exit: 0 where it is good, 1 where it is not
    #[arg(long)]
    pub validate: bool,
    /// Log the debug messages of the BPF programs; loads a separate build of them
    #[arg(long)]
    pub probe_log: bool,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List alerts and what came of them at each channel, from disk
    #[command(after_help = ALERTS_HELP)]
    Alerts(Alerts),
    /// Tell for each signal which source is active, which better one is not, why, and what to do
    #[command(after_help = "Exit status: 0 when every signal has a source, 1 when one has none or the configuration is bad.")]
    Doctor(Doctor),
    /// Print what the database holds of one metric, by minute
    #[command(after_help = "Exit status: 0 when values were printed, 1 when there are none or the configuration is bad.")]
    History(History),
    /// Put a recording, or a CSV file of one series, through the engine in simulated time and print what it finds
    #[command(after_help = REPLAY_HELP)]
    Replay(Replay),
    /// Find in log files what the patterns for logs, built-in and of the configuration, match
    #[command(after_help = SCAN_HELP)]
    Scan(Scan),
    /// Keep alerts back for a while: add, list, rm
    Silence(Silence),
    /// Send a sample to the channels and print what each service answered
    #[command(after_help = TEST_HELP)]
    TestAlert(TestAlert),
    /// Show the host's state, its busiest processes, kernel events and open alerts on one screen
    #[command(after_help = TOP_HELP)]
    Top(Top),
}

/// Options of `alerts`.
#[derive(Clone, Debug, Args)]
pub struct Alerts {
    /// Only the latest alert of each incident that is not over
    #[arg(long)]
    pub open: bool,
    /// How far back: a number with m, h, d or w
    #[arg(short, long, value_name = "TIME", value_parser = ago)]
    pub since: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Configuration file, which says where the outbox is; the defaults where it does not exist
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Options of `silence`.
#[derive(Clone, Debug, Args)]
pub struct Silence {
    /// What to do.
    #[command(subcommand)]
    pub action: SilenceAction,
    /// Configuration file, which says where the outbox is; the defaults where it does not exist
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG, global = true)]
    pub config: PathBuf,
}

/// What to do with silences.
#[derive(Clone, Debug, Subcommand)]
pub enum SilenceAction {
    /// Make one, and print its id
    #[command(after_help = SILENCE_HELP)]
    Add(SilenceAdd),
    /// List those of the configuration and of the command line
    List {
        /// Also those that are over
        #[arg(long)]
        all: bool,
    },
    /// Remove one that was made on the command line
    Rm {
        /// Its id
        id: String,
    },
}

/// Options of `silence add`.
#[derive(Clone, Debug, Args)]
pub struct SilenceAdd {
    /// Which alerts
    #[arg(required = true, value_name = "MATCHER")]
    pub matchers: Vec<String>,
    /// How long: a number with m, h, d or w
    #[arg(long = "for", value_name = "TIME", value_parser = ago, conflicts_with = "ends", required_unless_present = "ends")]
    pub duration: Option<Duration>,
    /// When it begins, as 2026-02-22T16:30:00+09:00; at once where it is left out
    #[arg(long, value_name = "RFC3339", value_parser = rfc3339)]
    pub starts: Option<Timestamp>,
    /// When it ends
    #[arg(long, value_name = "RFC3339", value_parser = rfc3339)]
    pub ends: Option<Timestamp>,
    /// Why
    #[arg(long, default_value = "")]
    pub comment: String,
}

/// Options of `test-alert`.
#[derive(Clone, Debug, Args)]
pub struct TestAlert {
    /// Only this channel; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub channel: Vec<String>,
    /// How bad the sample is: info, warn, critical or emergency
    #[arg(long, value_name = "SEVERITY", default_value = "warn", value_parser = severity)]
    pub severity: Severity,
    /// Also send its end, so that nothing stays open
    #[arg(long)]
    pub resolve: bool,
    /// Configuration file
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Options of `history`.
#[derive(Clone, Debug, Args)]
pub struct History {
    /// Name of the metric
    pub metric: String,
    /// Only series with this label; more than one narrows further
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// How far back: a number with m, h, d or w
    #[arg(short, long, value_name = "TIME", default_value = "6h", value_parser = ago)]
    pub since: Duration,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Configuration file, which says where the database is; the defaults where it does not exist
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Options of `scan`.
#[derive(Clone, Debug, Args)]
pub struct Scan {
    /// Files; - is the standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print one JSON object for each match
    #[arg(long)]
    pub json: bool,
    /// Configuration file, for its custom patterns; the defaults where it does not exist
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// Options of `replay`.
#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// The recording or CSV file; - for standard input
    pub file: PathBuf,
    /// Name of the metric that a CSV file holds; one that the agent does not know is a gauge without a unit
    #[arg(short, long, value_name = "NAME", default_value = "value")]
    pub metric: String,
    /// A label of that series; may be given more than once
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Print how unusual each value is
    #[arg(long)]
    pub scores: bool,
    /// Configuration file, for limits and analyzers; the defaults where none is named, whatever this machine has
    #[arg(short, long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Configuration file; the defaults where it does not exist
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Options of `top`.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// Configuration file; the defaults where it does not exist
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Time between two readings; file systems are read at the configuration's interval if that is longer
    #[arg(short, long, value_name = "SECS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,
    /// Print one screen as plain text after one interval, and exit
    #[arg(long)]
    pub once: bool,
    /// Print the same as JSON, and exit
    #[arg(long)]
    pub json: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, as in core=all")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn ago(text: &str) -> Result<Duration, String> {
    let seconds = || {
        let unit = match text.chars().last()? {
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return None,
        };
        text.get(..text.len() - 1)?.parse::<u32>().ok().filter(|number| *number > 0).map(|number| u64::from(number) * unit)
    };
    seconds().map(Duration::from_secs).ok_or_else(|| "write a number with m, h, d or w, as in 90m, 6h or 2d".to_owned())
}

fn severity(name: &str) -> Result<Severity, String> {
    name.parse().map_err(|()| format!("write one of {}", Severity::ALL.map(Severity::as_str).join(", ")))
}

fn rfc3339(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| "write a time such as 2026-02-22T16:30:00+09:00".to_owned())?;
    i64::try_from(time.as_nanosecond()).map(Timestamp::from_nanos).map_err(|_| "is outside the years 1678 to 2262".to_owned())
}

fn log_level(name: &str) -> Result<LogLevel, String> {
    LogLevel::NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level).ok_or_else(|| {
        let names: Vec<&str> = LogLevel::NAMES.iter().map(|(name, _)| *name).collect();
        format!("write one of {}", names.join(", "))
    })
}
