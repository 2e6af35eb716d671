//! Logs as sources of observations: one file a source, one row in [`SOURCES`] each.
//!
//! A source gives records as they are written; what a line means is the engine's business.

pub mod dmesg_line;
mod feed;
mod journal;
pub mod journal_entry;
mod kmsg;
pub mod lines;
mod position;
mod syslog;
pub mod syslog_line;
mod tail;

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

pub use self::position::Position;
use crate::config::LogSourceName;
use crate::host::{Host, Unavailable};
use crate::model::LogRecord;

/// All sources. Several may give lines of the kernel: those of the first that is read count, since it says the most about them.
pub const SOURCES: &[Row] = &[
    Row { name: "kmsg", key: LogSourceName::Dmesg, open: kmsg::open },
    Row { name: "journal", key: LogSourceName::Journal, open: journal::open },
    Row { name: "syslog", key: LogSourceName::Syslog, open: syslog::open },
];

/// Bytes of a line that are kept. A pattern of the configuration may cost microseconds for each.
pub const MAX_TEXT: usize = 2048;
/// How much older than its reading a line may be and still be news: a line that the agent was not there to read is passed over
/// when it is older.
pub const HISTORY: Duration = Duration::from_secs(300);
/// Lines up to this old are of the present.
pub const PRESENT: Duration = Duration::from_secs(10);

/// A log that is open, or why it is not.
pub type Opened = Result<Box<dyn LogSource>, Unavailable>;

/// A row of the table.
pub struct Row {
    /// The stem: file, label, `source` of the records.
    pub name: &'static str,
    /// What it is called in `[log_analyzer] sources`.
    pub key: LogSourceName,
    /// Opens it; must be called within a runtime.
    pub open: fn(&Place<'_>) -> Opened,
}

/// Where a log is, and where in it to begin.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Whose logs.
    pub host: &'a Host,
    /// The syslog file that the configuration names.
    pub syslog_path: Option<&'a Path>,
    /// The name under which the agent itself writes to syslog: its own words are no news to it.
    pub own_name: &'a str,
    /// Where to begin.
    pub begin: Begin<'a>,
}

/// Whether a program of that name is this one, which writes to syslog as `own_name`.
fn is_own(own_name: &str, name: &str) -> bool {
    name == own_name || name == env!("CARGO_PKG_NAME")
}

/// Which boot this is; 0 where nobody says so.
fn boot_id(host: &Host) -> u128 {
    let text = std::fs::read_to_string(host.procfs("sys/kernel/random/boot_id")).unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

/// Where in a log to begin.
#[derive(Clone, Copy, Debug)]
pub enum Begin<'a> {
    /// With what is written from now on.
    End,
    /// With the boot, as far as the source tells when that was; else as [`Self::End`].
    Boot,
    /// Where another reader stopped.
    At(&'a Position),
}

/// A record, and what was missed before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The record.
    pub record: LogRecord,
    /// Records that were lost between the one before and this one: overwritten, or not in the form of the log.
    pub lost: u64,
    /// Whether the end of the text was left out.
    pub is_cut: bool,
    /// Where to read on behind it.
    pub position: Position,
}

/// The next record, as a future on the heap, so that sources can be behind `dyn`.
pub type Next<'a> = Pin<Box<dyn Future<Output = io::Result<Logged>> + Send + 'a>>;

/// One log.
pub trait LogSource: Send {
    /// What it reads, for people.
    fn summary(&self) -> String;

    /// Waits for the next record. An error ends the source; it may be opened again.
    fn next(&mut self) -> Next<'_>;
}
