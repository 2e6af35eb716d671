//! The local syslog daemon, through its datagram socket.
//!
//! Lines are what glibc's syslog(3) writes: RFC 3164 without the host name, which the daemon adds itself. No remote syslog: a
//! local daemon forwards better than we could.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixDatagram;

use super::card::remarks;
use super::template::{Escape, Template};
use super::text::{clip, escape, number, prefix, push_labels, push_pair, zoned};
use super::{Accepted, Channel, Notifier, Rendered, Retry, Row, SendError, Sender, Sending, Updates};
use crate::config::SyslogFacility;
use crate::model::{Alert, Message, Severity, Status};

pub(super) const ROW: Row = Row {
    name: "syslog",
    summary: "the local syslog daemon",
    build: |config, _| {
        Ok(config.alerting.syslog.as_ref().map(|syslog| Channel {
            name: ROW.name,
            notifier: Box::new(Syslog {
                facility: syslog.facility,
                tag: syslog.tag.clone(),
                path: syslog.socket.clone(),
                template: Template::of(config, ROW.name),
            }),
            severities: syslog.severities,
            retry: RETRY,
            updates: Updates::Separate,
            refresh: None,
            is_screen: false,
        }))
    },
};

/// Seven seconds altogether: longer than a daemon takes to restart.
const RETRY: Retry = Retry { count: 3, delay: Duration::from_secs(1) };
/// Longest line in bytes: rsyslog's default `maxMessageSize`.
const LINE_MAX: usize = 8 * 1024;
/// Longest message and longest value of a pair, in bytes.
const MESSAGE_MAX: usize = 2 * 1024;
const VALUE_MAX: usize = 1024;
/// A daemon that is stopped while its queue is full would otherwise hold us for ever.
const TIMEOUT: Duration = Duration::from_secs(5);

struct Syslog {
    facility: SyslogFacility,
    tag: String,
    path: PathBuf,
    template: Option<Template>,
}

impl Syslog {
    fn start(&self, alert: &Alert, sender: &Sender) -> String {
        let priority = u16::from(self.facility.0) * 8 + level(alert);
        let at = zoned(alert.at, &sender.time_zone).strftime("%b %e %H:%M:%S");
        let mut line = String::with_capacity(512);
        let _ = write!(line, "<{priority}>{at} {}[{}]: ", escape(&self.tag), sender.pid);
        line
    }

    /// The lines of a template: a text of several is as many.
    fn templated(&self, message: &Message, sender: &Sender) -> Option<Vec<String>> {
        let texts = self.template.as_ref()?.render_each(message, sender, Escape::Text(str::to_owned))?;
        let mut lines = Vec::new();
        // Either one text for each alert, or one for all, which is as bad as the worst.
        let alerts = message.alerts().collect::<Vec<_>>();
        for (index, text) in texts.iter().enumerate() {
            let alert = if texts.len() == alerts.len() { alerts.get(index).copied() } else { message.lead() };
            let start = self.start(alert?, sender);
            let says = text.lines().filter(|line| !line.trim().is_empty());
            lines.extend(says.map(|line| clip(&format!("{start}{}", escape(line)), LINE_MAX).into_owned()));
        }
        Some(lines)
    }

    fn line(&self, alert: &Alert, sender: &Sender) -> String {
        let mut line = self.start(alert, sender);
        line.push_str(prefix(alert));
        line.push_str(&escape(&clip(&alert.message, MESSAGE_MAX)));
        let mut pair = |name: &str, value: &str| {
            line.push(' ');
            push_pair(&mut line, name, value, VALUE_MAX);
        };
        pair("status", alert.status.as_str());
        pair("severity", alert.severity.as_str());
        pair("metric", &alert.metric);
        pair("value", &number(alert.value));
        if let Some(threshold) = alert.threshold {
            pair("threshold", &number(threshold));
        }
        pair("duration_secs", &alert.duration.as_secs().to_string());
        pair("count", &alert.count.to_string());
        pair("id", &alert.id);
        push_labels(&mut line, &alert.labels, VALUE_MAX);
        for (name, value) in &alert.evidence {
            line.push(' ');
            let name = format!("evidence.{}", clip(name, VALUE_MAX));
            match value.as_str() {
                Some(text) => push_pair(&mut line, &name, text, VALUE_MAX),
                None => push_pair(&mut line, &name, &value.to_string(), VALUE_MAX),
            }
        }
        clip(&line, LINE_MAX).into_owned()
    }
}

impl Notifier for Syslog {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let templated = self.templated(message, sender);
        let says_remarks = templated.is_some() && self.template.as_ref().is_some_and(|template| template.names_remarks);
        let built_in = || message.news.iter().map(|news| self.line(&news.alert, sender)).collect();
        let mut lines: Vec<String> = templated.unwrap_or_else(built_in);
        if let (Some(news), remarks) = (message.news.last(), remarks(message))
            && !(remarks.is_empty() || says_remarks)
        {
            let line = format!("{}{}", self.start(&news.alert, sender), remarks.join("; "));
            lines.push(clip(&line, LINE_MAX).into_owned());
        }
        Rendered { parts: lines.into_iter().map(Into::into).collect(), ..Rendered::of(message, "") }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(async move {
            for line in &message.parts {
                match tokio::time::timeout(TIMEOUT, self.write(line)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(self.failed(&error)),
                    Err(_) => {
                        let error = io::Error::new(io::ErrorKind::TimedOut, "the daemon does not read its socket");
                        return Err(self.failed(&error));
                    }
                }
            }
            Ok(Accepted::default())
        })
    }
}

impl Syslog {
    /// Writes one datagram through a socket of its own: a connected one would outlive the daemon that it was connected to.
    async fn write(&self, line: &[u8]) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.send(line).await?;
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> SendError {
        let path = self.path.display();
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "start the syslog daemon or set alerting.syslog.socket",
            io::ErrorKind::ConnectionRefused => "nobody listens there, restart the syslog daemon",
            io::ErrorKind::PermissionDenied => "let the agent's user write to it",
            _ => "check the syslog daemon",
        };
        SendError::Retry { reason: format!("cannot write to the syslog socket {path}: {error}; {advice}"), after: None }
    }
}

/// The level of syslog(3). An end is a notice whatever it ends: a daemon shows what comes at `emerg` to every logged-in user.
fn level(alert: &Alert) -> u16 {
    match (alert.status, alert.severity) {
        (Status::Resolved, _) => 5,
        (_, Severity::Info) => 6,
        (_, Severity::Warn) => 4,
        (_, Severity::Critical) => 2,
        (_, Severity::Emergency) => 0,
    }
}
