//! What leaves the engine.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Evidence, Labels, Severity, Timestamp};

/// Where in its life an incident is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It began.
    Firing,
    /// It goes on, and there is something new to say.
    Updated,
    /// It is over.
    Resolved,
}

impl Status {
    /// The name in payloads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Updated => "updated",
            Self::Resolved => "resolved",
        }
    }
}

/// What there is to tell about one incident. As it is written to disk, an alert reads back as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Names the incident; the same over its life.
    pub id: String,
    /// Names this alert; the idempotency key of a message that holds nothing else.
    pub delivery: String,
    /// Time of the observation that caused it.
    pub at: Timestamp,
    /// Begin, update or end of the incident.
    pub status: Status,
    /// How bad it is.
    pub severity: Severity,
    /// What was measured: the name of a metric or of a kernel event.
    pub metric: Cow<'static, str>,
    /// The value that counts, in the metric's unit.
    pub value: f64,
    /// The limit it stands against; `None` where an event has no limit.
    pub threshold: Option<f64>,
    /// One sentence for a human.
    pub message: String,
    /// What it is about.
    pub labels: Labels,
    /// Since the incident began.
    pub duration: Duration,
    /// How many single events or passing samples it holds so far.
    pub count: u64,
    /// The facts that explain it.
    pub evidence: Evidence,
}
