//! An alert as a line, of RFC 3164 or RFC 5424. Nothing in a line ends it.

use std::fmt::Write as _;

use super::super::Sender;
use super::super::card::remarks;
use super::super::template::{Escape, Template};
use super::super::text::{clip, escape, number, prefix, push_labels, push_pair, zoned};
use crate::config::{SyslogFacility, SyslogFormat};
use crate::model::{Alert, Message, Severity, Status};

/// Longest message and longest value of a pair, in bytes, where a line has 8 KiB.
const MESSAGE_MAX: usize = 2 * 1024;
const VALUE_MAX: usize = 1024;
/// Names of structured data end with the number of an enterprise (RFC 5424, section 7.2.2); this is the one for documentation
/// (RFC 5612), as the program has none of its own.
const ENTERPRISE: u32 = 32_473;
/// Longest name of structured data (RFC 5424, section 6.3.2), longest message id and host name (section 6).
const NAME_MAX: usize = 32;
const HOST_MAX: usize = 255;

/// Writes lines.
pub(super) struct Lines {
    pub(super) template: Option<Template>,
    pub(super) facility: SyslogFacility,
    pub(super) tag: String,
    pub(super) format: SyslogFormat,
    /// Whether they go to the host's own daemon, which adds the host's name itself.
    pub(super) is_local: bool,
    /// Longest line in bytes.
    pub(super) max: usize,
}

impl Lines {
    /// A line for each alert that is new, or those of the template, and one for what else there is to say.
    pub(super) fn of(&self, message: &Message, sender: &Sender) -> Vec<String> {
        let templated = self.templated(message, sender);
        let says_remarks = templated.is_some() && self.template.as_ref().is_some_and(|template| template.names_remarks);
        let built_in = || {
            let line = |alert| match self.format {
                SyslogFormat::Rfc3164 => self.plain(alert, sender),
                SyslogFormat::Rfc5424 => {
                    let says = format!("{}{}", prefix(alert), escape(&clip(&alert.message, self.max / 4)));
                    self.structured(alert, &message.delivery, sender, &says)
                }
            };
            message.news.iter().map(|news| line(&news.alert)).collect()
        };
        let mut lines: Vec<String> = templated.unwrap_or_else(built_in);
        let remarks = remarks(message).join("; ");
        if let (Some(news), false) = (message.news.last(), remarks.is_empty() || says_remarks) {
            let line = match self.format {
                SyslogFormat::Rfc3164 => self.head(&news.alert, sender) + &remarks,
                SyslogFormat::Rfc5424 => format!("{} - - \u{feff}{remarks}", self.long_head(&news.alert, sender)),
            };
            lines.push(clip(&line, self.max).into_owned());
        }
        lines
    }

    /// The lines of a template: a text of several is as many.
    fn templated(&self, message: &Message, sender: &Sender) -> Option<Vec<String>> {
        let texts = self.template.as_ref()?.render_each(message, sender, Escape::Text(str::to_owned))?;
        let mut lines = Vec::new();
        // Either one text for each alert, or one for all, which is as bad as the worst.
        let alerts = message.alerts().collect::<Vec<_>>();
        for (index, text) in texts.iter().enumerate() {
            let alert = if texts.len() == alerts.len() { alerts.get(index).copied() } else { message.lead() }?;
            for says in text.lines().filter(|line| !line.trim().is_empty()).map(escape) {
                lines.push(match self.format {
                    SyslogFormat::Rfc3164 => clip(&(self.head(alert, sender) + &says), self.max).into_owned(),
                    SyslogFormat::Rfc5424 => self.structured(alert, &message.delivery, sender, &says),
                });
            }
        }
        Some(lines)
    }

    fn priority(&self, alert: &Alert) -> u16 {
        u16::from(self.facility.0) * 8 + level(alert)
    }

    /// What glibc's syslog(3) writes before a message; with the host's name where the line leaves the host.
    fn head(&self, alert: &Alert, sender: &Sender) -> String {
        let at = zoned(alert.at, &sender.time_zone).strftime("%b %e %H:%M:%S");
        let host = if self.is_local { String::new() } else { format!("{} ", word(&sender.hostname, HOST_MAX)) };
        format!("<{}>{at} {host}{}[{}]: ", self.priority(alert), escape(&self.tag), sender.pid)
    }

    fn plain(&self, alert: &Alert, sender: &Sender) -> String {
        let mut line = self.head(alert, sender);
        line.push_str(prefix(alert));
        line.push_str(&escape(&clip(&alert.message, MESSAGE_MAX)));
        for (name, value) in facts(alert) {
            line.push(' ');
            push_pair(&mut line, name, &value, VALUE_MAX);
        }
        push_labels(&mut line, &alert.labels, VALUE_MAX);
        for (name, value) in evidence(alert) {
            line.push(' ');
            push_pair(&mut line, &format!("evidence.{}", clip(name, VALUE_MAX)), &value, VALUE_MAX);
        }
        clip(&line, self.max).into_owned()
    }

    /// The header of RFC 5424, section 6.2, up to the process id.
    fn long_head(&self, alert: &Alert, sender: &Sender) -> String {
        let at = zoned(alert.at, &sender.time_zone).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z");
        let host = word(&sender.hostname, HOST_MAX);
        format!("<{}>1 {at} {host} {} {}", self.priority(alert), word(&self.tag, 48), sender.pid)
    }

    /// A line of RFC 5424 that says this, with what the alert holds as structured data.
    fn structured(&self, alert: &Alert, delivery: &str, sender: &Sender, says: &str) -> String {
        let mut line = format!("{} {} ", self.long_head(alert, sender), word(&alert.metric, NAME_MAX));
        let message = clip(says, self.max / 2);
        let mut data = Data { text: String::new(), room: self.max.saturating_sub(line.len() + message.len() + 64), left_out: 0 };
        let value_max = self.max / 8;
        let delivery = [("delivery", delivery.to_owned())];
        data.element("sysopsAgent", facts(alert).into_iter().chain(delivery), value_max);
        data.element("sysopsAgentLabels", alert.labels.iter().map(|(name, value)| (name, value.to_owned())), value_max);
        data.element("sysopsAgentEvidence", evidence(alert), value_max);
        if data.left_out > 0 {
            let _ = write!(data.text, "[sysopsAgentLeftOut@{ENTERPRISE} count=\"{}\"]", data.left_out);
        }
        let _ = write!(line, "{} \u{feff}{message}", data.text);
        line
    }
}

/// Structured data (RFC 5424, section 6.3) while it grows.
struct Data {
    text: String,
    /// What it may still take, in bytes.
    room: usize,
    /// Values for which there was no room.
    left_out: usize,
}

impl Data {
    /// Adds an element with as many of the parameters as there is room for; none where it would have none.
    fn element<'a>(&mut self, id: &str, parameters: impl Iterator<Item = (&'a str, String)>, value_max: usize) {
        let mut element = format!("[{id}@{ENTERPRISE}");
        let begin = element.len();
        for (name, value) in parameters {
            let mut parameter = format!(" {}=\"", word(name, NAME_MAX));
            for c in escape(&clip(&value, value_max)).chars() {
                if matches!(c, '"' | '\\' | ']') {
                    parameter.push('\\');
                }
                parameter.push(c);
            }
            parameter.push('"');
            if element.len() + parameter.len() < self.room {
                element.push_str(&parameter);
            } else {
                self.left_out += 1;
            }
        }
        if element.len() > begin {
            element.push(']');
            self.room = self.room.saturating_sub(element.len());
            self.text.push_str(&element);
        }
    }
}

/// What every alert has.
fn facts(alert: &Alert) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("status", alert.status.as_str().to_owned()),
        ("severity", alert.severity.as_str().to_owned()),
        ("metric", alert.metric.to_string()),
        ("value", number(alert.value)),
    ];
    facts.extend(alert.threshold.map(|threshold| ("threshold", number(threshold))));
    facts.extend([
        ("duration_secs", alert.duration.as_secs().to_string()),
        ("count", alert.count.to_string()),
        ("id", alert.id.clone()),
    ]);
    facts
}

fn evidence(alert: &Alert) -> impl Iterator<Item = (&str, String)> {
    alert.evidence.iter().map(|(name, value)| (name.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
}

/// The text in visible ASCII characters that may stand in any field of a header and in a name of structured data; never empty.
fn word(text: &str, max: usize) -> String {
    let visible = |c: char| if c.is_ascii_graphic() && !matches!(c, '=' | ']' | '"') { c } else { '_' };
    let word: String = text.chars().take(max).map(visible).collect();
    if word.is_empty() { "-".into() } else { word }
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
