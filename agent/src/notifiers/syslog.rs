//! Syslog: the local daemon, or a server over UDP or TCP; lines of RFC 3164 or RFC 5424.
//!
//! Each alert is a line of its own: `line` writes them, `wire` sends them. No TLS: a local daemon forwards better than we could.

mod line;
mod wire;

use std::time::Duration;

use super::template::Template;
use super::{Channel, Notifier, Rendered, Retry, Row, Sender, Sending, Updates};
use crate::config::{SyslogFormat, SyslogTarget};
use crate::model::Message;

pub(super) const ROW: Row = Row {
    name: "syslog",
    summary: "a syslog daemon, here or elsewhere",
    build: |config, _| {
        Ok(config.alerting.syslog.as_ref().map(|syslog| Channel {
            name: ROW.name,
            notifier: Box::new(Syslog {
                lines: line::Lines {
                    template: Template::of(config, ROW.name),
                    facility: syslog.facility,
                    tag: syslog.tag.clone(),
                    format: syslog.format,
                    is_local: matches!(syslog.target, SyslogTarget::Local(_)),
                    max: if matches!(syslog.target, SyslogTarget::Udp { .. }) { DATAGRAM_MAX } else { LINE_MAX },
                },
                wire: wire::Wire::new(syslog.target.clone(), is_counted(syslog.format)),
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
/// The same over UDP, which every receiver should be able to take (RFC 5426, section 3.2).
const DATAGRAM_MAX: usize = 2048;

struct Syslog {
    lines: line::Lines,
    wire: wire::Wire,
}

/// Whether lines over TCP are preceded by their length (RFC 6587, section 3.4.1) or ended by a line feed (section 3.4.2).
fn is_counted(format: SyslogFormat) -> bool {
    format == SyslogFormat::Rfc5424
}

impl Notifier for Syslog {
    fn render(&self, message: &Message, sender: &Sender) -> Rendered {
        let lines = self.lines.of(message, sender);
        Rendered { parts: lines.into_iter().map(Into::into).collect(), ..Rendered::of(message, "") }
    }

    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a> {
        Box::pin(self.wire.send(&message.parts))
    }
}
