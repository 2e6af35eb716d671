//! The foreground: alerts on standard output, for the human who started the agent.
//!
//! Always on and for every severity. Colour is part of what is rendered and is taken out again on the way to anything that is
//! no terminal, or where `NO_COLOR` is set. Text that somebody else wrote never reaches the terminal unescaped.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use super::card::{Lines, line, remarks};
use super::text::{clip, duration, escape, prefix, push_labels, quantity, zoned};
use super::{Accepted, Channel, Notifier, Rendered, Retry, Row, SendError, Sender, Sending, Updates};
use crate::model::{Alert, Message, Severities, Severity, Status};
use anstyle::{AnsiColor, Style};

pub(super) const ROW: Row = Row {
    name: "terminal",
    summary: "standard output, readable",
    build: |_, _| {
        Ok(Some(Channel {
            name: ROW.name,
            notifier: Box::new(Terminal),
            severities: Severities::from(Severity::Info),
            retry: Retry { count: 0, delay: Duration::ZERO },
            updates: Updates::Separate,
            refresh: None,
            is_screen: true,
        }))
    },
};

/// Longest message, in bytes.
const MESSAGE_MAX: usize = 1000;
/// Longest label value, in bytes.
const LINE_MAX: usize = 200;

const DIM: Style = Style::new().dimmed();

struct Terminal;

impl Notifier for Terminal {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let mut page = String::with_capacity(512);
        for news in &message.news {
            headline(&mut page, &news.alert, sender);
            circumstances(&mut page, &news.alert);
            evidence(&mut page, &news.alert);
        }
        for remark in remarks(message) {
            let _ = writeln!(page, "    {DIM}{remark}{DIM:#}");
        }
        Rendered::of(message, page)
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        let body = message.text();
        Box::pin(async move {
            // A terminal that was stopped with ^S, or a pipe that nobody reads, blocks whoever writes to it.
            let written = tokio::task::spawn_blocking(move || {
                let mut out = anstream::stdout().lock();
                out.write_all(&body).and_then(|()| out.flush())
            });
            match written.await {
                Ok(Ok(())) => Ok(Accepted::default()),
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
    let _ = write!(page, "    {} {}", escape(&alert.metric), quantity(&alert.metric, alert.value));
    if let Some(threshold) = alert.threshold {
        let _ = write!(page, ", limit {}", quantity(&alert.metric, threshold));
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
        if let Lines::One(value) = lines {
            let _ = writeln!(page, "    {DIM}{:<width$}{DIM:#}  {value}", line(name));
        }
    }
    for (name, lines) in &facts {
        if let Lines::Many { first, more } = lines {
            let _ = writeln!(page, "    {DIM}{}{DIM:#}", line(name));
            for line in first {
                let _ = writeln!(page, "      {line}");
            }
            if *more > 0 {
                let _ = writeln!(page, "      {DIM}… {more} more{DIM:#}");
            }
        }
    }
}
