//! What a channel is told at once.

use std::sync::Arc;
use std::time::Duration;

use super::{Alert, Severity, Status};

/// One alert, or several that were gathered. How it looks is each notifier's business.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The idempotency key: of a single alert its own `delivery`.
    pub delivery: String,
    /// What is new, in the order of time; never empty, and each incident once.
    pub news: Vec<News>,
    /// Further alerts for which there was no room, by severity and metric.
    pub tallies: Vec<Tally>,
    /// Where it belongs.
    pub place: Place,
    /// What else stands in the message that this one replaces, as it was last told.
    pub standing: Vec<Arc<Alert>>,
    /// How many alerts waited because of the rate limit; 0 where none did.
    pub held: u64,
    /// How long the oldest alert has waited, where that is so long that it is no news any more.
    pub late: Option<Duration>,
}

/// An incident's latest alert.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// What there is to tell.
    pub alert: Arc<Alert>,
    /// What this channel was last told about the incident.
    pub previous: Option<Arc<Alert>>,
    /// Earlier alerts about the incident that nobody was told because this one followed; it counts what they counted.
    pub superseded: u64,
}

/// Alerts that are only counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Their severity.
    pub severity: Severity,
    /// Their metric.
    pub metric: String,
    /// How many there are.
    pub count: u64,
}

/// Where a message belongs. What a service calls its messages is for its notifier alone to understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On its own.
    New,
    /// In place of the message of this name.
    Replace(String),
    /// Below the message of this name, as an answer.
    Answer(String),
}

impl Message {
    /// The message that holds this alert alone.
    pub fn of(alert: Arc<Alert>) -> Self {
        Self {
            delivery: alert.delivery.clone(),
            news: vec![News { alert, previous: None, superseded: 0 }],
            tallies: Vec::new(),
            place: Place::New,
            standing: Vec::new(),
            held: 0,
            late: None,
        }
    }

    /// All alerts that it shows: the news, then what stands.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.news.iter().map(|news| &*news.alert).chain(self.standing.iter().map(|alert| &**alert))
    }

    /// The alert that stands for all: the first of the worst that are not over, else the first of the worst.
    pub fn lead(&self) -> Option<&Alert> {
        let rank = |alert: &Alert| (alert.status != Status::Resolved, alert.severity);
        self.alerts().reduce(|lead, alert| if rank(alert) > rank(lead) { alert } else { lead })
    }

    /// Whether it is more than one alert.
    pub fn is_group(&self) -> bool {
        self.news.len() + self.standing.len() > 1 || !self.tallies.is_empty()
    }

    /// How many alerts it stands for, those that it only counts included.
    pub fn count(&self) -> u64 {
        let shown = u64::try_from(self.news.len() + self.standing.len()).unwrap_or(u64::MAX);
        let shown = self.news.iter().fold(shown, |count, news| count.saturating_add(news.superseded));
        self.tallies.iter().fold(shown, |count, tally| count.saturating_add(tally.count))
    }

    /// Whether somebody has to be called who was not called before: something is critical or worse that the channel has not been told to be
    /// so.
    pub fn calls(&self) -> bool {
        let worse = |news: &News| news.previous.as_ref().is_none_or(|previous| previous.severity < news.alert.severity);
        self.news
            .iter()
            .any(|news| news.alert.severity >= Severity::Critical && news.alert.status != Status::Resolved && worse(news))
    }
}
