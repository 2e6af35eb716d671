//! What a message says, in words and in order, before a channel gives it markup: one place for what all of them show.
//!
//! Everything here is plain text in which nothing acts on a terminal; markup is each channel's to escape, and its service's limits each
//! channel's to keep.

use std::fmt::Write as _;

use serde_json::Value;

use super::Sender;
use super::text::{clip, duration, escape, prefix, push_labels, quantity, zoned};
use crate::model::{Alert, Message, Status, Tally};

/// Longest message, in bytes.
const MESSAGE_MAX: usize = 1000;
/// Longest label value or line of evidence, in bytes.
const LINE_MAX: usize = 200;
/// Most lines of one piece of evidence; a kernel stack has seldom more frames.
const LINES_MAX: usize = 24;

/// One alert in words.
pub(super) struct Card {
    /// `CRITICAL web-01`, `[UPDATED] WARN web-01`, `[RESOLVED] CRITICAL web-01`.
    pub(super) title: String,
    /// The sentence.
    pub(super) message: String,
    /// Metric, value, limit, how long, how often, trend, labels: name and value.
    pub(super) facts: Vec<(String, String)>,
    /// Name and lines of each piece of evidence; those of one line come first.
    pub(super) evidence: Vec<(String, Lines)>,
    /// `2026-02-22 16:30:00 +09:00`
    pub(super) time: String,
    /// `web-01 (192.0.2.7)`
    pub(super) host: String,
}

impl Card {
    /// What there is to say about an alert.
    pub(super) fn of(alert: &Alert, sender: &Sender) -> Self {
        let mut facts = vec![("Metric".to_owned(), escape(&alert.metric).into_owned())];
        let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
        fact("Value", quantity(&alert.metric, alert.value));
        if let Some(threshold) = alert.threshold {
            fact("Limit", quantity(&alert.metric, threshold));
        }
        if alert.duration.as_secs() > 0 {
            fact("For", duration(alert.duration));
        }
        if alert.count > 1 {
            fact("Count", alert.count.to_string());
        }
        let trend = alert.evidence.get("trend").and_then(Value::as_str);
        if let Some(trend) = trend {
            fact("Trend", line(trend));
        }
        for (name, value) in alert.labels.iter() {
            fact(&line(name), line(value));
        }
        let pieces = || {
            alert.evidence.iter().filter(|(name, _)| *name != "trend").map(|(name, value)| (line(name), Lines::of(name, value)))
        };
        let evidence =
            pieces().filter(|(_, lines)| lines.is_one()).chain(pieces().filter(|(_, lines)| !lines.is_one())).collect();
        Self {
            title: title(alert, sender),
            message: sentence(alert),
            facts,
            evidence,
            time: time(alert, sender),
            host: host(sender),
        }
    }

    /// Names and values in one line: `Metric: cpu_usage_percent, Value: 95.2%`.
    pub(super) fn facts_line(&self) -> String {
        self.facts.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
    }

    /// All of it but the title as text of at most `max` bytes: the sentence, what there is to remark, a fact a line, the evidence.
    pub(super) fn text(&self, remarks: &[String], max: usize) -> String {
        let mut text = self.message.clone();
        for line in remarks {
            let _ = write!(text, "\n{line}");
        }
        text.push('\n');
        for (name, value) in &self.facts {
            let _ = write!(text, "\n{name}: {value}");
        }
        let _ = write!(text, "\nTime: {}\nHost: {}", self.time, self.host);
        if !self.evidence.is_empty() {
            let _ = write!(text, "\n\n{}", self.evidence_text(max));
        }
        clip_lines(&text, max)
    }

    /// The evidence as text of at most `max` bytes: a name before each fact, and above the lines of each list.
    pub(super) fn evidence_text(&self, max: usize) -> String {
        let mut lines = Vec::new();
        for (name, piece) in &self.evidence {
            match piece {
                Lines::One(value) => lines.push(format!("{name}: {value}")),
                Lines::Many { first, more } => {
                    lines.push(format!("{name}:"));
                    lines.extend(first.iter().map(|line| format!("  {line}")));
                    if *more > 0 {
                        lines.push(format!("  … {more} more"));
                    }
                }
            }
        }
        clip_lines(&lines.join("\n"), max)
    }
}

/// The start of a text in at most `max` bytes, in whole lines where at least one fits, ended by a mark where something is missing.
pub(super) fn clip_lines(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let clipped = clip(text, max);
    match clipped.rsplit_once('\n') {
        Some((lines, _)) => format!("{lines}\n…"),
        None => clipped.into_owned(),
    }
}

/// Status, severity and host.
pub(super) fn title(alert: &Alert, sender: &Sender) -> String {
    format!("{}{} {}", prefix(alert), alert.severity.as_str().to_uppercase(), escape(&sender.hostname))
}

/// The alert's own sentence.
pub(super) fn sentence(alert: &Alert) -> String {
    escape(&clip(&alert.message, MESSAGE_MAX)).into_owned()
}

/// The time of an alert, with its zone.
pub(super) fn time(alert: &Alert, sender: &Sender) -> String {
    zoned(alert.at, &sender.time_zone).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// Name and address of the host.
pub(super) fn host(sender: &Sender) -> String {
    let name = escape(&sender.hostname);
    if sender.address.is_empty() { name.into_owned() } else { format!("{name} ({})", escape(&sender.address)) }
}

/// `3 alerts: 2 CRITICAL, 1 WARN`, of those that are not over; where all are, `3 alerts are over`. For the title of a group.
pub(super) fn counts(message: &Message) -> String {
    let all = message.count();
    let mut open: std::collections::BTreeMap<_, u64> = std::collections::BTreeMap::new();
    for alert in message.alerts().filter(|alert| alert.status != Status::Resolved) {
        *open.entry(alert.severity).or_default() += 1;
    }
    for Tally { severity, count, .. } in &message.tallies {
        *open.entry(*severity).or_default() += count;
    }
    let total: u64 = open.values().sum();
    if total == 0 {
        return format!("{all} alerts are over");
    }
    let kinds: Vec<_> =
        open.iter().rev().map(|(severity, count)| format!("{count} {}", severity.as_str().to_uppercase())).collect();
    let over = if total < all { format!(", {} over", all - total) } else { String::new() };
    format!("{all} alerts: {}{over}", kinds.join(", "))
}

/// An alert of a group in one line: `CRITICAL for 5m 30s: …`.
pub(super) fn brief(alert: &Alert) -> String {
    let mut line = match alert.status {
        Status::Resolved => "[RESOLVED] ".to_owned(),
        Status::Firing | Status::Updated => format!("{} ", alert.severity.as_str().to_uppercase()),
    };
    if alert.duration.as_secs() > 0 {
        let _ = write!(line, "for {}: ", duration(alert.duration));
    }
    line.push_str(&sentence(alert));
    line
}

/// What is to be said of a message beside its alerts, in sentences: what is only counted, what waited, what is late.
pub(super) fn remarks(message: &Message) -> Vec<String> {
    let mut remarks = Vec::new();
    if !message.tallies.is_empty() {
        let total: u64 = message.tallies.iter().map(|tally| tally.count).sum();
        let kinds = message.tallies.iter().map(|tally| format!("{} {} {}", tally.count, tally.severity, escape(&tally.metric)));
        remarks.push(format!("and {total} more: {}", kinds.collect::<Vec<_>>().join(", ")));
    }
    if message.held > 0 {
        let alerts = if message.held == 1 { "alert was" } else { "alerts were" };
        remarks.push(format!("{} {alerts} held back by the rate limit until now", message.held));
    }
    if let Some(late) = message.late {
        remarks.push(format!("late: the oldest of these has waited for {}", duration(late)));
    }
    remarks
}

/// Labels in one line, as in logfmt.
pub(super) fn labels(alert: &Alert) -> String {
    let mut line = String::new();
    push_labels(&mut line, &alert.labels, LINE_MAX);
    line.trim_start().to_owned()
}

/// A piece of evidence as lines, escaped and clipped.
pub(super) enum Lines {
    /// A fact.
    One(String),
    /// A stack, a list, a table.
    Many {
        /// The first lines.
        first: Vec<String>,
        /// How many more there are.
        more: usize,
    },
}

impl Lines {
    /// Whether it is a fact of one line.
    pub(super) fn is_one(&self) -> bool {
        matches!(self, Self::One(_))
    }

    /// The lines of a value under its name, whose end tells the unit.
    pub(super) fn of(name: &str, value: &Value) -> Self {
        match value {
            Value::String(text) if text.trim_end().contains('\n') => Self::many(text.trim_end().lines().map(line)),
            Value::Array(items) if !items.is_empty() => Self::many(items.iter().map(|item| plain(name, item))),
            Value::Object(fields) if !fields.is_empty() => {
                Self::many(fields.iter().map(|(name, value)| format!("{}  {}", line(name), plain(name, value))))
            }
            other => Self::One(plain(name, other)),
        }
    }

    fn many(mut lines: impl Iterator<Item = String>) -> Self {
        let first = lines.by_ref().take(LINES_MAX).collect();
        Self::Many { first, more: lines.count() }
    }
}

/// Text of one line.
pub(super) fn line(text: &str) -> String {
    escape(&clip(text, LINE_MAX)).into_owned()
}

fn plain(name: &str, value: &Value) -> String {
    match value {
        // Identifiers and counts stay as they are: as a float, a large one would be another.
        Value::Number(number) if number.is_f64() || name.ends_with("_bytes") => {
            number.as_f64().map_or_else(|| number.to_string(), |value| quantity(name, value))
        }
        Value::String(text) => line(text.trim_end_matches('\n')),
        other => line(&other.to_string()),
    }
}
