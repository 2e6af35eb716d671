//! From the engine's alerts to the channels: who gets what, when, in which order, and until when it is tried.
//!
//! The [`Router`] keeps back what is silenced and hands the rest to the lane of each channel that is to be told; that never waits. A lane's gate
//! groups and limits, its threads know what the channel was told before. One [`Courier`] a channel takes out what may go, in order, so a
//! channel that is dead delays no other. What waits is on disk, in the [`Outbox`]. Channels are known only through the seam in
//! `notifiers/mod.rs`, the one thing imported from there. Decisions are made with the time that is handed in; only couriers wait.

mod backoff;
mod bucket;
mod courier;
mod gate;
mod lane;
pub mod outbox;
mod silences;
mod threads;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use courier::Courier;
pub use outbox::{Outbox, Restored};
pub use silences::Silences;

use crate::config;
use crate::model::{Alert, Labels, Metric, Sample, SeriesKey, Silence, Status, Timestamp, Unit};
use crate::notifiers::{Channel, Sender};
use bucket::Bucket;
use gate::Policy;
use lane::{Lane, Past};
use outbox::Change;

/// What [`Router::samples`] may emit; those of a channel with the label `channel`.
pub const METRICS: &[Metric] =
    &[SENT, RETRIED, FAILED, DROPPED, QUEUED, HELD, SILENCED, outbox::BYTES, outbox::UNSAVED, outbox::DAMAGED];

const SENT: Metric = Metric::counter("agent_alerts_sent_total", Unit::Count, "Messages that the channel's receiver accepted.");
const RETRIED: Metric =
    Metric::counter("agent_alerts_retried_total", Unit::Count, "Attempts to send a message after one that was not accepted.");
const FAILED: Metric = Metric::counter("agent_alerts_failed_total", Unit::Count, "Messages that the receiver refused for good.");
const DROPPED: Metric = Metric::counter(
    "agent_alerts_dropped_total",
    Unit::Count,
    "Alerts given up: older than [alerting.outbox] max_age_hours, or there was neither room nor a disk for them.",
);
const QUEUED: Metric = Metric::gauge("agent_alerts_queued", Unit::Count, "Alerts that wait for their turn.");
const HELD: Metric =
    Metric::counter("agent_alerts_held_total", Unit::Count, "Alerts that the rate limit held up and a later message told of.");
const SILENCED: Metric =
    Metric::counter("agent_alerts_silenced_total", Unit::Count, "Alerts that a silence kept from the channels.");

const HOUR: Duration = Duration::from_secs(3600);
/// How often it is looked whether a silence has ended.
const LOOK: Duration = Duration::from_secs(5);
/// Incidents that are silenced and will be told of when that ends; of further ones only their next alert will.
const MAX_SILENCED: usize = 1000;

/// Hands alerts to the channels.
pub struct Router {
    lanes: Vec<Arc<Lane>>,
    sender: Arc<Sender>,
    outbox: Outbox,
    overall: Arc<Mutex<Bucket>>,
    silences: Silences,
    /// Those of the configuration.
    configured: Vec<Silence>,
    /// Those of the command line.
    commanded: Vec<Silence>,
    /// By incident its latest alert, with its number: kept back by a silence.
    silenced: BTreeMap<String, (u64, Arc<Alert>)>,
    silenced_count: u64,
    /// Whether ends are told.
    recovery: bool,
    looked: Timestamp,
    next_seq: u64,
}

impl Router {
    /// A router for these channels. Nothing is sent before its [couriers](Self::couriers) run.
    pub fn new(channels: Vec<Channel>, sender: Sender, config: &config::Alerting, outbox: Outbox, restored: Restored) -> Self {
        let mut router = Self {
            lanes: Vec::new(),
            sender: Arc::new(sender),
            outbox,
            overall: Arc::new(Mutex::new(Bucket::new(config.max_alerts_per_hour_overall, HOUR))),
            silences: Silences::default(),
            configured: Vec::new(),
            commanded: restored.silences,
            silenced: restored.silenced.into_iter().map(|(seq, alert)| (alert.id.clone(), (seq, alert))).collect(),
            silenced_count: 0,
            recovery: config.recovery_enabled,
            looked: Timestamp::default(),
            next_seq: restored.next_seq.max(1),
        };
        let (mut waiting, mut told) = (restored.waiting, restored.told);
        let (mut references, mut sent) = (restored.references, restored.sent);
        let all = sent.values().flatten().copied();
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        all.into_iter().for_each(|at| router.overall().take(at));
        router.reconfigure(channels, config);
        for lane in &router.lanes {
            let name = lane.name();
            lane.restore(Past {
                waiting: waiting.remove(name).unwrap_or_default(),
                told: told.remove(name).unwrap_or_default(),
                references: references.remove(name).unwrap_or_default(),
                sent: sent.remove(name).unwrap_or_default(),
            });
        }
        for (channel, alerts) in waiting {
            let count = alerts.len();
            tracing::warn!(channel, "{count} alerts waited for a channel that is not configured any more, and are given up");
            router.outbox.change(Change::Gone { channel });
        }
        router
    }

    /// Takes over another configuration. What waits for a channel that stays is sent as that is configured now; what waits for one that
    /// goes gets one more attempt. The couriers of channels that are new.
    pub fn reconfigure(&mut self, channels: Vec<Channel>, config: &config::Alerting) -> Vec<Courier> {
        let policy = Policy {
            window: config.grouping.enabled.then_some(config.grouping.window),
            per_minute: config.max_alerts_per_minute,
            per_hour: config.max_alerts_per_hour,
            emergency_bypass: config.emergency_bypass_rate_limit,
            max_age: config.outbox.max_age,
        };
        self.overall().resize(config.max_alerts_per_hour_overall);
        self.configured.clone_from(&config.silences);
        self.recovery = config.recovery_enabled;
        self.take_silences();
        let mut before = std::mem::take(&mut self.lanes);
        let mut new = Vec::new();
        for channel in channels {
            if let Some(place) = before.iter().position(|lane| lane.name() == channel.name) {
                let lane = before.swap_remove(place);
                lane.reconfigure(channel, policy.clone());
                self.lanes.push(lane);
                continue;
            }
            let lane = if channel.is_screen {
                let all = Policy { window: None, per_minute: u32::MAX, per_hour: u32::MAX, ..policy.clone() };
                let free = Arc::new(Mutex::new(Bucket::new(u32::MAX, HOUR)));
                Lane::new(channel, all, Arc::clone(&self.sender), Outbox::in_memory(), free)
            } else {
                let overall = Arc::clone(&self.overall);
                Lane::new(channel, policy.clone(), Arc::clone(&self.sender), self.outbox.clone(), overall)
            };
            let lane = Arc::new(lane);
            new.push(Courier::new(Arc::clone(&lane)));
            self.lanes.push(lane);
        }
        for lane in before {
            lane.close();
        }
        new
    }

    /// One courier a channel. A courier whose task ended in a panic may be run again and goes on with the next message.
    pub fn couriers(&self) -> impl Iterator<Item = Courier> + '_ {
        self.lanes.iter().map(|lane| Courier::new(Arc::clone(lane)))
    }

    /// Names of all channels.
    pub fn channels(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.lanes.iter().map(|lane| lane.name())
    }

    /// Names of the channels that would be told of this alert. An end goes where the beginning went.
    pub fn route(&self, alert: &Alert) -> impl Iterator<Item = &'static str> + '_ {
        self.lanes.iter().filter(|lane| lane.wants(alert)).map(|lane| lane.name()).collect::<Vec<_>>().into_iter()
    }

    /// Hands the alert to each channel that is to be told, unless it is silenced: then they are told of the incident when the silence
    /// ends, if it goes on. The end of something that was told is told in any case.
    pub fn dispatch(&mut self, at: Timestamp, alert: Alert) {
        let alert = Arc::new(alert);
        let seq = self.next_seq;
        self.next_seq += 1;
        let is_over = alert.status == Status::Resolved;
        let silence = self.silences.silencing(&alert, &self.sender.hostname, at).filter(|_| !is_over);
        let silenced = silence.map(|silence| silence.id.clone());
        self.silenced.remove(&alert.id);
        if is_over && !self.recovery {
            self.lanes.iter().for_each(|lane| lane.forget(&alert.id));
            return self.outbox.change(Change::Alert { seq, alert, channels: Vec::new(), silenced });
        }
        let is_silenced = silenced.is_some();
        if is_silenced {
            self.silenced_count += 1;
            if self.silenced.len() < MAX_SILENCED {
                self.silenced.insert(alert.id.clone(), (seq, Arc::clone(&alert)));
            }
        }
        let wanting = self.lanes.iter().filter(|lane| (lane.is_screen() || !is_silenced) && lane.wants(&alert));
        let wanting: Vec<_> = wanting.cloned().collect();
        let channels = wanting.iter().filter(|lane| !lane.is_screen()).map(|lane| lane.name()).collect();
        self.outbox.change(Change::Alert { seq, alert: Arc::clone(&alert), channels, silenced });
        wanting.iter().for_each(|lane| lane.push(at, seq, &alert));
    }

    /// Time has passed: windows close, silences end, tokens are there again.
    pub fn tick(&mut self, at: Timestamp) {
        if let Some(commanded) = self.outbox.changed_silences() {
            self.commanded = commanded;
            self.take_silences();
        }
        self.lanes.iter().for_each(|lane| lane.tick(at));
        if at >= self.looked && at.since(self.looked) < LOOK {
            return;
        }
        self.looked = at;
        let (silences, hostname) = (&self.silences, &self.sender.hostname);
        let free = |(_, (_, alert)): &(&String, &(u64, Arc<Alert>))| silences.silencing(alert, hostname, at).is_none();
        let ended: Vec<String> = self.silenced.iter().filter(free).map(|(incident, _)| incident.clone()).collect();
        for incident in ended {
            let Some((seq, alert)) = self.silenced.remove(&incident) else { continue };
            let wanting: Vec<_> = self.lanes.iter().filter(|lane| !lane.is_screen() && lane.wants(&alert)).collect();
            self.outbox.change(Change::Want { seq, channels: wanting.iter().map(|lane| lane.name()).collect() });
            wanting.iter().for_each(|lane| lane.push(at, seq, &alert));
        }
    }

    /// Stops taking alerts and gives what may go one attempt each, without waiting between them, until `limit` has passed. What is left
    /// then stays in the outbox; without one it is dropped, counted and logged. Returns whether nothing was left.
    pub async fn flush(&self, limit: Duration) -> bool {
        self.lanes.iter().for_each(|lane| lane.close());
        let all = async {
            for lane in &self.lanes {
                lane.drained().await;
            }
        };
        // The result is in the lanes themselves.
        let _ = tokio::time::timeout(limit, all).await;
        let left: u64 = self.lanes.iter().map(|lane| lane.abandon()).sum();
        left == 0
    }

    /// What each channel's service said last: its answer, or why it was not accepted. `None` where nothing was sent.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, Option<Result<String, String>>)> + '_ {
        self.lanes.iter().map(|lane| (lane.name(), lane.state().outcome.clone()))
    }

    /// Appends the counters and queue lengths of all channels, and those of the outbox.
    pub fn samples(&self, into: &mut Vec<Sample>) {
        let mut add = |metric: &'static Metric, labels: Labels, value: f64| {
            into.push(Sample { series: SeriesKey::new(metric, labels), value });
        };
        for lane in &self.lanes {
            let (queued, held) = lane.counts();
            let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
            let values =
                [counter(&lane.sent), counter(&lane.retried), counter(&lane.failed), counter(&lane.dropped), queued, held];
            for (metric, value) in [&SENT, &RETRIED, &FAILED, &DROPPED, &QUEUED, &HELD].into_iter().zip(values) {
                #[expect(clippy::cast_precision_loss, reason = "no counter of messages comes near 2^53")]
                add(metric, Labels::new().with("channel", lane.name()), value as f64);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "no counter of alerts comes near 2^53")]
        add(&SILENCED, Labels::new(), self.silenced_count as f64);
        if self.outbox.is_durable() {
            self.outbox.samples(&mut |metric, value| add(metric, Labels::new(), value));
        }
    }

    fn take_silences(&mut self) {
        self.silences = Silences::new(self.configured.iter().chain(&self.commanded).cloned());
    }

    fn overall(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.overall.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// As when another configuration takes over: couriers still give what is queued one attempt each, and end.
impl Drop for Router {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.close());
    }
}
