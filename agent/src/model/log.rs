//! Log lines as observations.

use super::{Evidence, Timestamp};

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Which source it came from: the name of its row in `logs`; `kmsg_user` for what a process wrote into the kernel's log.
    pub source: &'static str,
    /// Whether the kernel itself wrote it.
    pub is_kernel: bool,
    /// Syslog priority level 0 (emergency) to 7 (debug), where the source has one.
    pub level: Option<u8>,
    /// The text without its terminator; bytes that were not UTF-8 are replaced. A line of the kernel as the kernel wrote it, one of
    /// somebody else as `NAME[PID]: message`.
    pub text: String,
    /// When it was written, where that was so long before it was read that it tells of the past.
    pub written: Option<Timestamp>,
    /// What the host says of whom the line names, found out when the line was read; empty for most lines.
    pub facts: Evidence,
}
