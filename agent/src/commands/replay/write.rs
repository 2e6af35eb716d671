//! What a replay prints: one JSON object a line.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::time::rfc3339;
use crate::engine::analyzers::{Finding, Phase};
use crate::model::{Alert, Labels, SeriesKey, Timestamp};

/// Where it goes.
pub(super) struct Writer<W: Write> {
    output: W,
    hostname: String,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(output: W, hostname: &str) -> Self {
        Self { output, hostname: hostname.to_owned() }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    pub(super) fn finding(&mut self, at: Timestamp, finding: &Finding) -> io::Result<()> {
        self.line(&json!({"finding": {
            "timestamp": rfc3339(at),
            "phase": phase(finding.phase),
            "severity": finding.severity.as_str(),
            "metric": finding.metric,
            "labels": labels(&finding.labels),
            "value": finding.value,
            "threshold": finding.threshold,
            "message": finding.message,
            "since": rfc3339(finding.since),
            "count": finding.count,
            "source": finding.source,
            "evidence": finding.evidence,
        }}))
    }

    pub(super) fn alert(&mut self, alert: &Alert) -> io::Result<()> {
        self.line(&json!({"alert": {
            "id": alert.id,
            "delivery": alert.delivery,
            "hostname": self.hostname,
            "timestamp": rfc3339(alert.at),
            "status": alert.status.as_str(),
            "severity": alert.severity.as_str(),
            "metric": alert.metric,
            "labels": labels(&alert.labels),
            "value": alert.value,
            "threshold": alert.threshold,
            "message": alert.message,
            "duration_secs": alert.duration.as_secs(),
            "count": alert.count,
            "evidence": alert.evidence,
        }}))
    }

    /// The time is as it stands in the input. Written by hand, as there may be a million of them.
    pub(super) fn scored(&mut self, time: &str, series: Option<&SeriesKey>, value: f64, score: f64) -> io::Result<()> {
        let digits = !time.is_empty() && time.len() < 20 && time.bytes().all(|byte| byte.is_ascii_digit());
        let canonical = digits && (time.len() == 1 || !time.starts_with('0'));
        self.output.write_all(b"{\"timestamp\":")?;
        if canonical {
            self.output.write_all(time.as_bytes())?;
        } else {
            serde_json::to_writer(&mut self.output, time)?;
        }
        if let Some(series) = series {
            self.output.write_all(b",\"metric\":")?;
            serde_json::to_writer(&mut self.output, series.metric().name)?;
            self.output.write_all(b",\"labels\":")?;
            serde_json::to_writer(&mut self.output, &labels(series.labels()))?;
        }
        self.output.write_all(b",\"value\":")?;
        serde_json::to_writer(&mut self.output, &value)?;
        // More digits than these say nothing.
        writeln!(self.output, ",\"score\":{score:.6}}}")
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, value)?;
        self.output.write_all(b"\n")
    }
}

fn labels(labels: &Labels) -> Value {
    Value::Object(labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Occurred => "occurred",
        Phase::Holds => "holds",
        Phase::Changed => "changed",
        Phase::Cleared => "cleared",
        Phase::Paused => "paused",
        Phase::Resumed => "resumed",
        Phase::Witnessed => "witnessed",
        Phase::Disputed => "disputed",
    }
}
