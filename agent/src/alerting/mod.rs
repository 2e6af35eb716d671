//! From the engine's alerts to the channels: who gets what, in which order, how often it is tried.
//!
//! The [`Router`] decides by severity and puts an alert into the bounded queue of each channel that wants it; that never waits.
//! One [`Courier`] a channel takes them out in order, so a channel that is dead delays no other. It knows channels only through
//! the seam in `notifiers/mod.rs`, the one thing it imports from there. Deciding takes no time of day; only couriers wait.

mod backoff;
mod courier;
mod queue;
mod silences;

use std::sync::Arc;
use std::time::Duration;

pub use courier::Courier;
pub use silences::Silences;

use crate::model::{Alert, Labels, Metric, Sample, SeriesKey, Severity, Unit};
use crate::notifiers::{Channel, Sender};
use courier::Lane;

/// What [`Router::samples`] may emit, each with the label `channel`.
pub const METRICS: &[Metric] = &[SENT, RETRIED, FAILED, DROPPED, QUEUED];

const SENT: Metric = Metric::counter("agent_alerts_sent_total", Unit::Count, "Messages that the channel's receiver accepted.");
const RETRIED: Metric =
    Metric::counter("agent_alerts_retried_total", Unit::Count, "Attempts to send a message after one that was not accepted.");
const FAILED: Metric = Metric::counter(
    "agent_alerts_failed_total",
    Unit::Count,
    "Messages given up: refused for good, or not accepted in any attempt that alerting.CHANNEL.retry_count allows.",
);
const DROPPED: Metric = Metric::counter(
    "agent_alerts_dropped_total",
    Unit::Count,
    "Messages never tried: the channel's queue was full, or the agent stopped before their turn.",
);
const QUEUED: Metric = Metric::gauge("agent_alerts_queued", Unit::Count, "Messages that wait for their turn.");

/// Hands alerts to the channels.
pub struct Router {
    lanes: Vec<Arc<Lane>>,
    /// By lane, in the order of [`METRICS`].
    series: Vec<[SeriesKey; 5]>,
}

impl Router {
    /// A router for these channels. Nothing is sent before its [couriers](Self::couriers) run.
    pub fn new(channels: Vec<Channel>, sender: Sender) -> Self {
        let sender = Arc::new(sender);
        let series = channels.iter().map(|channel| series(channel.name)).collect();
        let lanes = channels.into_iter().map(|channel| Arc::new(Lane::new(channel, Arc::clone(&sender)))).collect();
        Self { lanes, series }
    }

    /// One courier a channel. A courier whose task ended in a panic may be run again and goes on with the next message.
    pub fn couriers(&self) -> impl Iterator<Item = Courier> + '_ {
        self.lanes.iter().map(|lane| Courier::new(Arc::clone(lane)))
    }

    /// Names of all channels.
    pub fn channels(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.lanes.iter().map(|lane| lane.name())
    }

    /// Names of the channels that get this alert. An end carries the severity of its incident, so it goes where the incident
    /// went.
    pub fn route(&self, alert: &Alert) -> impl Iterator<Item = &'static str> + '_ {
        self.wanting(alert.severity).map(|lane| lane.name())
    }

    /// Queues the alert for each channel that gets it. Where a queue is full, the oldest message milder than Critical gives way
    /// and is counted; among Critical and Emergency ones, the oldest.
    pub fn dispatch(&self, alert: Alert) {
        let alert = Arc::new(alert);
        for lane in self.wanting(alert.severity) {
            lane.push(Arc::clone(&alert));
        }
    }

    /// Stops taking alerts and gives what is queued one attempt each, without waiting between them, until `limit` has passed.
    /// What is left then is dropped, counted and logged. Returns whether nothing was left.
    pub async fn flush(&self, limit: Duration) -> bool {
        self.lanes.iter().for_each(|lane| lane.close());
        let all = async {
            for lane in &self.lanes {
                lane.drained().await;
            }
        };
        // The result is in the lanes themselves.
        let _ = tokio::time::timeout(limit, all).await;
        let left: usize = self.lanes.iter().map(|lane| lane.abandon()).sum();
        left == 0
    }

    /// Appends the counters and queue lengths of all channels.
    pub fn samples(&self, into: &mut Vec<Sample>) {
        for (lane, series) in self.lanes.iter().zip(&self.series) {
            let values = lane.counts();
            into.extend(series.iter().zip(values).map(|(series, value)| Sample { series: series.clone(), value }));
        }
    }

    fn wanting(&self, severity: Severity) -> impl Iterator<Item = &Arc<Lane>> + '_ {
        self.lanes.iter().filter(move |lane| lane.severities().contains(severity))
    }
}

/// As when another configuration takes over: couriers still give what is queued one attempt each, and end.
impl Drop for Router {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.close());
    }
}

fn series(channel: &'static str) -> [SeriesKey; 5] {
    let series = |metric| SeriesKey::new(metric, Labels::new().with("channel", channel));
    [series(&SENT), series(&RETRIED), series(&FAILED), series(&DROPPED), series(&QUEUED)]
}
