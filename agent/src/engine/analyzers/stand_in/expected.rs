//! What the kernel's log must say after a probe has reported something, and whether it did.
//!
//! Nothing is expected while the log is not read or has just been opened, of lines that the kernel holds back (its allowance of
//! hung-task warnings is used up, or it limits the rate of I/O errors), and for as long as records of the log were lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{GRACE, KERNEL_LOG, MAX_REMEMBERED, Seen, dispute, within};
use crate::engine::analyzers::{Finding, event};
use crate::engine::store::SeriesId;
use crate::model::{KernelEvent, Labels, SeriesKey, Timestamp};

/// Lines about I/O errors that the kernel writes within 5 s (`DEFAULT_RATELIMIT_BURST` and `_INTERVAL`, linux/ratelimit_types.h).
const RATE: (usize, Duration) = (10, Duration::from_secs(5));
/// How long a sample that tells of lost records is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// `hung_task_warnings`: how many more hung tasks the kernel will log; -1 for all.
const WARNINGS: &str = "kernel_hung_task_warnings";
/// Records of the log that were lost.
const LOST: &str = "agent_log_records_lost_total";

/// An event that the log must tell of as well.
struct Expected {
    metric: &'static str,
    event: Seen,
}

/// A line that told of something.
struct Heard {
    at: Timestamp,
    metric: &'static str,
    labels: Labels,
}

/// What is expected of the log.
#[derive(Default)]
pub struct Expectations {
    /// Since when the log is read.
    log_since: Option<Timestamp>,
    expected: VecDeque<Expected>,
    heard: VecDeque<Heard>,
    /// I/O errors that may have taken a line of the kernel's rate.
    errors: VecDeque<Timestamp>,
    /// The allowance when it was read last, and hung tasks since then.
    warnings: Option<(f64, u64)>,
    /// By series: when it was read last, and its value.
    lost: BTreeMap<SeriesId, (Timestamp, f64)>,
    /// When it was last seen that records were lost.
    lost_at: Option<Timestamp>,
    allowance: Option<SeriesId>,
}

impl Expectations {
    /// Whether the series says what cannot be expected.
    pub fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        match key.metric().name {
            WARNINGS => self.allowance = Some(id),
            LOST if key.labels().get("source") == Some(KERNEL_LOG) => {
                self.lost.insert(id, (Timestamp::default(), 0.0));
            }
            _ => return false,
        }
        true
    }

    /// Ends following a series.
    pub fn forget(&mut self, id: SeriesId) {
        self.lost.remove(&id);
        if self.allowance == Some(id) {
            (self.allowance, self.warnings) = (None, None);
        }
    }

    /// One of these series was read.
    pub fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64) {
        if self.allowance == Some(id) {
            self.warnings = Some((value, 0));
        }
        let Some((read, last)) = self.lost.get_mut(&id) else { return };
        if value > *last {
            // What happened since the last reading, or a little before it, may be among what was lost.
            let from = *read;
            self.lost_at = Some(at);
            self.expected.retain(|Expected { event, .. }| event.at < from && !within(GRACE, event.at, from));
        }
        (*read, *last) = (at, value);
    }

    /// The log is read from now on, or not any more.
    pub fn log(&mut self, at: Timestamp, is_read: bool) {
        self.log_since = is_read.then_some(at);
        self.expected.clear();
    }

    /// A line told of this.
    pub fn hear(&mut self, at: Timestamp, metric: &'static str, labels: &Labels) {
        self.expected.retain(|expected| expected.metric != metric || !expected.event.is(labels));
        if self.heard.len() >= MAX_REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back(Heard { at, metric, labels: labels.clone() });
    }

    /// A probe told of this.
    pub fn expect(&mut self, at: Timestamp, event: &KernelEvent, seen: Seen) {
        let is_due = match event.metric {
            metric if metric == event::OOM_KILL.name => true,
            metric if metric == event::HUNG_TASK.name => self.takes_warning(),
            metric if metric == event::BLOCK_IO_ERROR.name => self.takes_rate(at, event),
            _ => false,
        };
        let is_read = self.log_since.is_some_and(|since| at > since && !within(GRACE, since, at));
        let is_heard =
            self.heard.iter().any(|heard| heard.metric == event.metric && within(GRACE, heard.at, at) && seen.is(&heard.labels));
        // The loss may be known before the event, which takes its time to be looked into.
        let is_lost = self.lost_at.is_some_and(|lost| within(GRACE, lost, at));
        // Of more than can be remembered nothing is expected.
        if is_due && is_read && !is_heard && !is_lost && self.expected.len() < MAX_REMEMBERED {
            self.expected.push_back(Expected { metric: event.metric, event: seen });
        }
    }

    /// Says of which events the log has not told in time.
    pub fn tick(&mut self, at: Timestamp, findings: &mut Vec<Finding>) {
        self.heard.retain(|heard| within(GRACE, heard.at, at));
        self.errors.retain(|error| within(RATE.1, *error, at));
        let read = self.lost.values().map(|(read, _)| *read).min();
        self.expected.retain(|Expected { metric, event }| {
            if within(GRACE, event.at, at) {
                return true;
            }
            // Whether records were lost then is known when the losses have been read once more.
            if read.is_some_and(|read| read < event.at.plus(GRACE)) {
                return within(PATIENCE, event.at, at);
            }
            let sentence = format!("the kernel log did not report this within {} s", GRACE.as_secs());
            findings.push(dispute(metric, &event.labels, KERNEL_LOG, sentence));
            false
        });
    }

    /// Whether the kernel will log another hung task.
    fn takes_warning(&mut self) -> bool {
        let Some((allowance, taken)) = &mut self.warnings else { return false };
        *taken = taken.saturating_add(1);
        #[expect(clippy::cast_precision_loss, reason = "a count of tasks between two samples")]
        let taken = *taken as f64;
        *allowance < 0.0 || taken <= *allowance
    }

    /// Whether the kernel will log another I/O error.
    fn takes_rate(&mut self, at: Timestamp, event: &KernelEvent) -> bool {
        // A request that the device does not know is no error in the log's eyes.
        if event.evidence.get("error").is_some_and(|error| error == "EOPNOTSUPP") {
            return false;
        }
        self.errors.retain(|error| within(RATE.1, *error, at));
        let is_due = self.errors.len() < RATE.0;
        if is_due {
            self.errors.push_back(at);
        }
        is_due
    }
}
