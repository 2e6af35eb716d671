//! Where alerts go: one file a channel, one row in the table each.
//!
//! A notifier renders an alert, purely, and sends what it rendered once. Retrying, ordering and choosing who gets what is the
//! business of `alerting`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::model::Alert;

/// Who is speaking: what every message says of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Name of the host.
    pub hostname: String,
    /// Its address towards the default route; empty where it has none.
    pub address: String,
    /// The time zone that timestamps are written in.
    pub time_zone: jiff::tz::TimeZone,
}

/// A future on the heap, so that notifiers can be behind `dyn`.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>>;

/// One channel.
pub trait Notifier: Send + Sync {
    /// Renders the message: the same bytes for the same alert and sender.
    fn render(&self, alert: &Alert, sender: &Sender) -> Rendered;

    /// Sends a rendered message, once.
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

/// A message was not accepted. The text names the channel's host but never a path, query or header, which may hold secrets.
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
