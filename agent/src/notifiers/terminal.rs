//! The foreground: alerts on standard output, for the human who started the agent.
//!
//! Always on and for every severity. Colour is part of what is rendered and is taken out again on the way to anything that is
//! no terminal, or where `NO_COLOR` is set. Text that somebody else wrote never reaches the terminal unescaped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::text::{clip, duration, escape, prefix, push_labels, quantity, zoned};
use super::{Channel, Notifier, Rendered, Retry, Row, SendError, Sender, Sending};
use crate::model::{Alert, Severity, Status};

pub(super) const ROW: Row = Row {
    name: "terminal",
    summary: "standard output, readable",
    build: |_| {
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(Terminal),
            min_severity: Severity::Info,
            retry: Retry { count: 0, delay: Duration::ZERO },
        }))
    },
};

/// Longest message, in bytes.
const MESSAGE_MAX: usize = 1000;
/// Longest label value or line of evidence, in bytes.
const LINE_MAX: usize = 200;
/// Most lines of one piece of evidence; a kernel stack has seldom more frames.
const LINES_MAX: usize = 24;

const DIM: Style = Style::new().dimmed();

struct Terminal;

impl Notifier for Terminal {
    fn render(&self, alert: &Alert, sender: &Sender) -> Rendered {
        let mut page = String::with_capacity(512);
        headline(&mut page, alert, sender);
        circumstances(&mut page, alert);
        evidence(&mut page, alert);
        Rendered { delivery: alert.delivery.clone(), body: page.into() }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        let body = message.body.clone();
        Box::pin(async move {
            // A terminal that was stopped with ^S, or a pipe that nobody reads, blocks whoever writes to it.
            let written = tokio::task::spawn_blocking(move || {
                let mut out = anstream::stdout().lock();
                out.write_all(&body).and_then(|()| out.flush())
            });
            match written.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(permanent(error)),
                Err(error) => Err(permanent(error)),
            }
        })
    }
}

fn permanent(error: impl std::fmt::Display) -> SendError {
    SendError::Permanent {
        reason: format!("cannot write to standard output: {error}; redirect it to a file or to /dev/null if nobody reads it"),
    }
}

fn headline(page: &mut String, alert: &Alert, sender: &Sender) {
    let colour = match (alert.status, alert.severity) {
        (Status::Resolved, _) => Style::new().bold().fg_color(Some(AnsiColor::Green.into())),
        (_, Severity::Info) => Style::new().bold().fg_color(Some(AnsiColor::Cyan.into())),
        (_, Severity::Warn) => Style::new().bold().fg_color(Some(AnsiColor::Yellow.into())),
        (_, Severity::Critical) => Style::new().bold().fg_color(Some(AnsiColor::Red.into())),
        (_, Severity::Emergency) => {
            Style::new().bold().fg_color(Some(AnsiColor::BrightWhite.into())).bg_color(Some(AnsiColor::Red.into()))
        }
    };
    let at = zoned(alert.at, &sender.time_zone).strftime("%Y-%m-%d %H:%M:%S");
    let severity = alert.severity.as_str().to_uppercase();
    let message = clip(&alert.message, MESSAGE_MAX);
    let _ = writeln!(page, "{DIM}{at}{DIM:#} {colour}{severity:<9}{colour:#} {}{}", prefix(alert), escape(&message));
}

/// The metric against its limit, how long and how often, and what it is about.
fn circumstances(page: &mut String, alert: &Alert) {
    let _ = write!(page, "    {} {}", escape(alert.metric), quantity(alert.metric, alert.value));
    if let Some(threshold) = alert.threshold {
        let _ = write!(page, ", limit {}", quantity(alert.metric, threshold));
    }
    if alert.duration.as_secs() > 0 {
        let _ = write!(page, ", for {}", duration(alert.duration));
    }
    if alert.count > 1 {
        let _ = write!(page, ", {} times", alert.count);
    }
    page.push('\n');
    if !alert.labels.is_empty() {
        page.push_str("   ");
        push_labels(page, &alert.labels, LINE_MAX);
        page.push('\n');
    }
}

/// Facts of one line come first, they answer at a glance; stacks and lists follow.
fn evidence(page: &mut String, alert: &Alert) {
    let facts: Vec<(&String, Lines)> = alert.evidence.iter().map(|(name, value)| (name, Lines::of(name, value))).collect();
    let width = facts.iter().filter(|(_, lines)| lines.is_one()).map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(32);
    for (name, lines) in &facts {
        if let Lines::One(line) = lines {
            let _ = writeln!(page, "    {DIM}{:<width$}{DIM:#}  {line}", escape(&clip(name, LINE_MAX)));
        }
    }
    for (name, lines) in &facts {
        if let Lines::Many { first, more } = lines {
            let _ = writeln!(page, "    {DIM}{}{DIM:#}", escape(&clip(name, LINE_MAX)));
            for line in first {
                let _ = writeln!(page, "      {line}");
            }
            if *more > 0 {
                let _ = writeln!(page, "      {DIM}… {more} more{DIM:#}");
            }
        }
    }
}

/// A piece of evidence as lines, escaped and clipped.
enum Lines {
    One(String),
    Many { first: Vec<String>, more: usize },
}

impl Lines {
    fn is_one(&self) -> bool {
        matches!(self, Self::One(_))
    }

    fn of(name: &str, value: &Value) -> Self {
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

fn line(text: &str) -> String {
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
