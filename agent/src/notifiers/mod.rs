//! Where alerts go: one file a channel, one row in [`NOTIFIERS`] each.
//!
//! A notifier renders an alert, purely, and sends what it rendered once. Retrying, ordering and choosing who gets what is the
//! business of `alerting`, which knows no channel but only the seam in this file: [`Channel`], [`Notifier`], [`Rendered`],
//! [`SendError`], [`Sender`] and [`Retry`].

mod syslog;
mod terminal;
mod text;
mod webhook;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use text::{duration, escape, quantity};

use crate::config::Config;
use crate::model::{Alert, Severity};

/// Who is speaking: what every message says of the host and of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Name of the host.
    pub hostname: String,
    /// Its address towards the default route; empty where it has none.
    pub address: String,
    /// The time zone that timestamps are written in.
    pub time_zone: jiff::tz::TimeZone,
    /// Process id of the agent, as in a syslog tag.
    pub pid: u32,
}

/// A future on the heap, so that notifiers can be behind `dyn`.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>>;

/// One way out. [`send`](Self::send) needs a tokio runtime with time and I/O, and never blocks its thread.
pub trait Notifier: Send + Sync {
    /// Renders the message: the same bytes for the same alert and sender.
    fn render(&self, alert: &Alert, sender: &Sender) -> Rendered;

    /// Sends a rendered message, once, and gives up by itself after a limit of its own.
    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a>;
}

/// A message, ready to be sent as often as it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The idempotency key.
    pub delivery: String,
    /// The body.
    pub body: bytes::Bytes,
}

/// A message was not accepted. The text names the receiver's host but never a path, query or header, which may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It may work later.
    #[error("{reason}")]
    Retry {
        /// What happened.
        reason: String,
        /// How long the receiver asked us to wait.
        after: Option<Duration>,
    },
    /// It will never work.
    #[error("{reason}")]
    Permanent {
        /// What happened, and what to do.
        reason: String,
    },
}

/// A channel that is enabled but cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the channel {channel}: {reason}")]
pub struct BuildError {
    /// Name of its row.
    pub channel: &'static str,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// How often, and how patiently, a message is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts after the first.
    pub count: u32,
    /// Wait before the second attempt; it doubles with each further one.
    pub delay: Duration,
}

/// A notifier with the part of its configuration that decides what it gets.
pub struct Channel {
    /// Name of its row.
    pub name: &'static str,
    /// The way out.
    pub notifier: Box<dyn Notifier>,
    /// Milder alerts are not sent here.
    pub min_severity: Severity,
    /// What happens to a message that was not accepted.
    pub retry: Retry,
}

/// A row of the table: what there is to say about a notifier without making it.
pub struct Row {
    /// The stem: file, configuration key, value of the label `channel`.
    pub name: &'static str,
    /// Where it sends, in a few words.
    pub summary: &'static str,
    /// Makes it; `None` where the configuration does not enable it.
    pub build: fn(&Config) -> Result<Option<Channel>, BuildError>,
}

/// All notifiers.
pub const NOTIFIERS: &[Row] = &[terminal::ROW, webhook::ROW, syslog::ROW];

/// Makes every enabled channel. One that cannot be made costs only itself.
pub fn build(config: &Config) -> (Vec<Channel>, Vec<BuildError>) {
    let mut channels = Vec::new();
    let mut errors = Vec::new();
    for row in NOTIFIERS {
        match (row.build)(config) {
            Ok(channel) => channels.extend(channel),
            Err(error) => errors.push(error),
        }
    }
    (channels, errors)
}

/// Channels that the configuration enables and this version does not have, in the order of the configuration file.
pub fn unavailable(config: &Config) -> Vec<&'static str> {
    let alerting = &config.alerting;
    [
        ("discord", alerting.discord.is_some()),
        ("slack", alerting.slack.is_some()),
        ("telegram", alerting.telegram.is_some()),
        ("email", alerting.email.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, enabled)| enabled.then_some(name))
    .collect()
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("name", &self.name)
            .field("min_severity", &self.min_severity)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
