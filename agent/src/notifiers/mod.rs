//! Where alerts go: one file a channel, one row in [`NOTIFIERS`] each.
//!
//! A notifier renders a message, purely, and sends what it rendered once. Retrying, ordering and choosing who gets what is the
//! business of `alerting`, which knows no channel but only the seam in this file: [`Channel`], [`Notifier`], [`Rendered`],
//! [`Accepted`], [`SendError`], [`Sender`], [`Retry`] and [`Updates`].

mod alertmanager;
mod card;
mod dial;
mod discord;
mod email;
mod http;
mod ntfy;
mod opsgenie;
mod pagerduty;
mod post;
mod slack;
mod syslog;
mod teams;
mod telegram;
mod template;
mod terminal;
mod text;
mod webhook;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use http::Clients;
pub use text::{duration, escape, quantity};

use bytes::Bytes;

use crate::config::Config;
use crate::model::{Message, Place, Severities};

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
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Accepted, SendError>> + Send + 'a>>;

/// One way out. [`send`](Self::send) needs a tokio runtime with time and I/O, and never blocks its thread.
pub trait Notifier: Send + Sync {
    /// Renders the message: the same bytes for the same message and sender.
    fn render(&self, message: &Message, sender: &Sender) -> Rendered;

    /// Sends a rendered message, once, and gives up by itself after a limit of its own.
    fn send<'a>(&'a self, message: &'a Rendered) -> Sending<'a>;
}

/// A message, ready to be sent as often as it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The idempotency key.
    pub delivery: String,
    /// Where it belongs.
    pub place: Place,
    /// The bodies of what is sent, in order: one, where the service can take several alerts at once.
    pub parts: Vec<Bytes>,
}

impl Rendered {
    /// The message as one body.
    pub fn of(message: &Message, body: impl Into<Bytes>) -> Self {
        Self { delivery: message.delivery.clone(), place: message.place.clone(), parts: vec![body.into()] }
    }

    /// All parts, one after the other.
    pub fn text(&self) -> Bytes {
        match self.parts.as_slice() {
            [only] => only.clone(),
            parts => parts.concat().into(),
        }
    }
}

/// A message was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// What the service calls the message, where later ones can refer to it; it takes the place of an earlier such name.
    pub reference: Option<String>,
    /// What the service said, for a person who asks.
    pub answer: String,
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

/// For channels without keys of their own.
const RETRY: Retry = Retry { count: 3, delay: Duration::from_secs(5) };

/// A notifier with the part of its configuration that decides what it gets.
pub struct Channel {
    /// Name of its row.
    pub name: &'static str,
    /// The way out.
    pub notifier: Box<dyn Notifier>,
    /// What is sent here.
    pub severities: Severities,
    /// What happens to a message that was not accepted.
    pub retry: Retry,
    /// How what follows on an incident reaches those who were told of it.
    pub updates: Updates,
    /// How often the service wants to hear again of what is not over, so that it does not take it for over.
    pub refresh: Option<Duration>,
    /// Whether it is the screen of whoever started the agent: it gets each alert by itself, at once, and keeps nothing.
    pub is_screen: bool,
}

/// How what follows on an incident reaches those who were told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updates {
    /// As a message of its own; what belongs together is for the receiver to see by the incident's `id`.
    Separate,
    /// The first message is replaced; where somebody has to be called, by an answer to it.
    InPlace,
    /// As an answer to the first message.
    Answer,
}

/// A row of the table: what there is to say about a notifier without making it.
pub struct Row {
    /// The stem: file, configuration key, value of the label `channel`.
    pub name: &'static str,
    /// Where it sends, in a few words.
    pub summary: &'static str,
    /// Makes it; `None` where the configuration does not enable it.
    pub build: fn(&Config, &Clients) -> Result<Option<Channel>, BuildError>,
}

/// All notifiers.
pub const NOTIFIERS: &[Row] = &[
    terminal::ROW,
    discord::ROW,
    slack::ROW,
    telegram::ROW,
    email::ROW,
    webhook::ROW,
    syslog::ROW,
    alertmanager::ROW,
    pagerduty::ROW,
    opsgenie::ROW,
    teams::ROW,
    ntfy::ROW,
];

/// Makes every enabled channel. One that cannot be made costs only itself.
pub fn build(config: &Config) -> (Vec<Channel>, Vec<BuildError>) {
    let mut channels = Vec::new();
    let mut errors = Vec::new();
    let clients = Clients::new(config.alerting.ca_file.clone());
    for row in NOTIFIERS {
        match (row.build)(config, &clients) {
            Ok(channel) => channels.extend(channel),
            Err(error) => errors.push(error),
        }
    }
    (channels, errors)
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("name", &self.name)
            .field("severities", &self.severities)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
