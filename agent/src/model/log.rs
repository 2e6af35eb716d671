//! Log lines as observations.

use super::Evidence;

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Which source it came from: the name of its row in `logs`.
    pub source: &'static str,
    /// Syslog priority level 0 (emergency) to 7 (debug), where the source has one.
    pub level: Option<u8>,
    /// Sequence number in its source, where the source has one.
    pub sequence: Option<u64>,
    /// The text without its terminator; bytes that were not UTF-8 are replaced.
    pub text: String,
    /// What the host says of whom the line names, found out when the line was read; empty for most lines.
    pub facts: Evidence,
}
