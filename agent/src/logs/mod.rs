//! Logs as sources of observations: one file a source, one row in [`SOURCES`] each.
//!
//! A source gives records as they are written; what a line means is the engine's business.

mod kmsg;

use std::future::Future;
use std::io;
use std::pin::Pin;

use crate::config::LogSourceName;
use crate::host::{Host, Unavailable};
use crate::model::LogRecord;

/// All sources.
pub const SOURCES: &[Row] =
    &[Row { name: "kmsg", summary: "the kernel log, /dev/kmsg", key: LogSourceName::Dmesg, open: kmsg::open }];

/// A log that is open, or why it is not.
pub type Opened = Result<Box<dyn LogSource>, Unavailable>;

/// A row of the table.
pub struct Row {
    /// The stem: file, label, `source` of the records.
    pub name: &'static str,
    /// What it reads.
    pub summary: &'static str,
    /// What it is called in `[log_analyzer] sources`.
    pub key: LogSourceName,
    /// Opens it, at the record with this sequence number where one is given, else at its end; must be called within a runtime.
    pub open: fn(&Host, Option<u64>) -> Opened,
}

/// A record, and what was missed before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The record.
    pub record: LogRecord,
    /// Records that were lost between the one before and this one: overwritten, or not in the form of the log.
    pub lost: u64,
}

/// The next record, as a future on the heap, so that sources can be behind `dyn`.
pub type Next<'a> = Pin<Box<dyn Future<Output = io::Result<Logged>> + Send + 'a>>;

/// One log.
pub trait LogSource: Send {
    /// Waits for the next record. An error ends the source; it may be opened again.
    fn next(&mut self) -> Next<'_>;
}
