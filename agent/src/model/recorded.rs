//! Observations as text: one JSON object a line, so that a recording can be read, cut and written by hand.
//!
//! Each line has the key `at`, the time in RFC 3339, and one of `samples`, `event`, `log` and `source`. Names are owned here; whoever
//! reads a recording finds the metrics that they are of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Evidence;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// When it was seen, RFC 3339.
    pub at: String,
    /// What one run of a collector gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<RecordedSamples>,
    /// Something that the kernel did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<RecordedEvent>,
    /// A line of a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<RecordedLog>,
    /// A source that came or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RecordedSource>,
}

/// See [`Samples`](super::Samples).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedSamples {
    /// Name of the collector's row.
    #[serde(default)]
    pub collector: String,
    /// The values.
    pub values: Vec<RecordedSample>,
}

/// See [`Sample`](super::Sample).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedSample {
    /// Name of the metric.
    pub metric: String,
    /// Which of its series.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The value; `null` where it was no number.
    pub value: Option<f64>,
}

/// See [`KernelEvent`](super::KernelEvent).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedEvent {
    /// Name of the event's metric.
    pub metric: String,
    /// What it happened to.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The measure of it.
    pub value: f64,
    /// The limit of that.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// Single events in it.
    pub count: u64,
    /// One sentence.
    pub message: String,
    /// `probe` or `poll`.
    pub source: String,
    /// Everything else.
    #[serde(default)]
    pub evidence: Evidence,
}

/// See [`LogRecord`](super::LogRecord).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedLog {
    /// Name of the log's row.
    pub source: String,
    /// Syslog level.
    #[serde(default)]
    pub level: Option<u8>,
    /// Whether the kernel itself wrote it; where this is absent, whether the source is the kernel's log.
    #[serde(default)]
    pub is_kernel: Option<bool>,
    /// When it was written, in RFC 3339, where that was long before.
    #[serde(default)]
    pub written: Option<String>,
    /// The line.
    pub text: String,
    /// What the host said of whom it names.
    #[serde(default)]
    pub facts: Evidence,
}

/// See [`SourceState`](super::SourceState).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedSource {
    /// The signal, or the log.
    pub signal: String,
    /// Whether it is there.
    pub probed: bool,
}
