//! One channel: what waits for it, what it was told, and its counters. The router and the channel's courier share it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::bucket::Bucket;
use super::gate::{Bundle, DETAILS, Gate, Item, Policy, STALE};
use super::outbox::{Change, Outbox, Waiting};
use super::threads::{Plan, Threads, Told};
use crate::model::{Alert, Message, Place, Status, Timestamp};
use crate::notifiers::{Channel, Sender};

/// Alerts that wait with their evidence in memory; of further ones it is read from disk when their turn comes.
const WITH_EVIDENCE: usize = 256;

/// A channel with its gate, threads and counters.
pub(super) struct Lane {
    name: &'static str,
    pub(super) sender: Arc<Sender>,
    pub(super) outbox: Outbox,
    overall: Arc<Mutex<Bucket>>,
    state: Mutex<State>,
    /// Something to do for the courier: a message, or the end.
    pub(super) work: Notify,
    /// The wait between two attempts is over: the lane was closed, or the channel is another.
    pub(super) hurry: Notify,
    /// Nothing left to do, for whoever flushes.
    idle: Notify,
    pub(super) sent: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
}

pub(super) struct State {
    pub(super) channel: Arc<Channel>,
    gate: Gate,
    threads: Threads,
    /// The time that was handed in last.
    pub(super) now: Timestamp,
    /// When what is not over was told again.
    refreshed: Option<Timestamp>,
    /// The incidents of the message whose fate is open.
    under_way: Vec<String>,
    is_busy: bool,
    pub(super) is_closed: bool,
    /// The courier has done what it could.
    has_ended: bool,
    /// The last message failed; the next failure is no news.
    pub(super) is_failing: bool,
    /// Alerts whose last attempt came with the end of the agent.
    pub(super) left: u64,
    /// What the service said last.
    pub(super) outcome: Option<Result<String, String>>,
}

/// What a courier is to do.
pub(super) enum Job {
    /// To tell something that has to be told.
    Send(Plan),
    /// To tell again what is not over.
    Refresh(Message),
    /// To wait for work.
    Wait,
    /// To end.
    End,
}

/// What an earlier run has left for one channel.
#[derive(Default)]
pub(super) struct Past {
    pub(super) waiting: Vec<Waiting>,
    pub(super) told: Vec<Told>,
    pub(super) references: std::collections::BTreeMap<u64, Vec<String>>,
    pub(super) sent: Vec<Timestamp>,
}

impl Lane {
    pub(super) fn new(
        channel: Channel,
        policy: Policy,
        sender: Arc<Sender>,
        outbox: Outbox,
        overall: Arc<Mutex<Bucket>>,
    ) -> Self {
        let name = channel.name;
        let state = State {
            channel: Arc::new(channel),
            gate: Gate::new(policy),
            threads: Threads::default(),
            now: Timestamp::default(),
            refreshed: None,
            under_way: Vec::new(),
            is_busy: false,
            is_closed: false,
            has_ended: false,
            is_failing: false,
            left: 0,
            outcome: None,
        };
        Self {
            name,
            sender,
            outbox,
            overall,
            state: Mutex::new(state),
            work: Notify::new(),
            hurry: Notify::new(),
            idle: Notify::new(),
            sent: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn is_screen(&self) -> bool {
        self.state().channel.is_screen
    }

    /// Takes up what an earlier run has left.
    pub(super) fn restore(&self, past: Past) {
        let mut state = self.state();
        state.threads.restore(past.told, past.references);
        past.sent.into_iter().for_each(|at| state.gate.remember(at));
        // Those of one message that was tried go again as that message, whatever came between them; others each as they came.
        let (mut tried, mut others): (Vec<Bundle>, Vec<Bundle>) = (Vec::new(), Vec::new());
        for Waiting { seq, alert, key } in past.waiting {
            let item = Item { seq, since: alert.at, alert, superseded: 0, is_slim: false };
            match tried.iter_mut().find(|bundle| key.is_some() && bundle.key == key) {
                Some(bundle) => bundle.push(item),
                None => {
                    let kind = if key.is_some() { &mut tried } else { &mut others };
                    let mut bundle = Bundle::of(item);
                    bundle.key = key;
                    kind.push(bundle);
                }
            }
        }
        tried.into_iter().chain(others).for_each(|bundle| state.gate.restore(bundle));
        drop(state);
        self.work.notify_one();
    }

    /// Another configuration of the same channel; what waits stays.
    pub(super) fn reconfigure(&self, channel: Channel, policy: Policy) {
        let mut state = self.state();
        state.channel = Arc::new(channel);
        state.gate.reconfigure(policy);
        drop(state);
        self.hurry.notify_one();
        self.work.notify_one();
    }

    /// Whether the channel is to be told: by severity; of an end if it was told of the beginning, or is going to be.
    pub(super) fn wants(&self, alert: &Alert) -> bool {
        let state = self.state();
        let by_severity = state.channel.severities.contains(alert.severity);
        if alert.status != Status::Resolved || state.channel.is_screen {
            return by_severity;
        }
        let incident = &alert.id;
        state.threads.knows(incident) || state.gate.holds(incident) || state.under_way.contains(incident)
    }

    /// Takes an alert that the channel [wants](Self::wants).
    pub(super) fn push(&self, at: Timestamp, seq: u64, alert: &Arc<Alert>) {
        let mut state = self.state();
        if state.is_closed {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.now = at;
        let is_change = state.threads.is_change(alert, state.channel.updates);
        let is_slim = self.outbox.is_durable() && state.gate.details() >= WITH_EVIDENCE;
        let alert =
            if is_slim { Arc::new(Alert { evidence: serde_json::Map::new(), ..(**alert).clone() }) } else { Arc::clone(alert) };
        let full = state.gate.details() >= DETAILS;
        state.gate.take(at, Item { seq, alert, since: at, superseded: 0, is_slim }, is_change);
        drop(state);
        if full {
            self.dropped.fetch_add(u64::from(!self.outbox.is_durable()), Relaxed);
        }
        self.work.notify_one();
    }

    /// Time has passed.
    pub(super) fn tick(&self, at: Timestamp) {
        let mut state = self.state();
        state.now = at;
        state.gate.tick(at);
        let expired = state.gate.expire(at);
        let is_due = state.gate.is_waiting() || state.channel.refresh.is_some();
        drop(state);
        if !expired.is_empty() {
            let count = expired.len();
            self.dropped.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
            tracing::error!(
                channel = self.name,
                "{count} alerts were not accepted for as long as [alerting.outbox] max_age_hours allows, and are given up"
            );
            let refused = Some("not accepted within max_age_hours".to_owned());
            self.outbox.change(Change::Settled { channel: self.name, key: String::new(), seqs: expired, at, refused });
        }
        if is_due {
            self.work.notify_one();
        }
    }

    /// What the courier is to do next. What it is handed is under way until it is [settled](Self::settle).
    pub(super) fn next(&self) -> Job {
        let mut state = self.state();
        let state = &mut *state;
        let now = state.now;
        if state.channel.is_screen || state.is_closed {
            state.gate.close();
        }
        let Some((bundle, is_change)) = state.gate.next(now, &mut self.overall()) else {
            if state.is_closed {
                state.has_ended = true;
                self.idle.notify_one();
                return Job::End;
            }
            let Some(every) = state.channel.refresh else { return Job::Wait };
            // The first of them is due when what is told now has become old.
            let since = *state.refreshed.get_or_insert(now);
            if now.since(since) < every {
                return Job::Wait;
            }
            state.refreshed = Some(now);
            return refreshing(state.threads.standing()).map_or(Job::Wait, Job::Refresh);
        };
        let late = bundle.oldest().is_some_and(|oldest| now.since(oldest) >= STALE);
        let (plan, rest) = state.threads.plan(bundle, state.channel.updates, now, late);
        if is_change && !matches!(plan.message.place, Place::Replace(_)) {
            // The message that it was to change is gone from memory meanwhile.
            state.gate.spend(now, &mut self.overall());
        }
        if let Some(rest) = rest {
            state.gate.put_back(rest, is_change);
        }
        state.is_busy = true;
        state.under_way = plan.message.news.iter().map(|news| news.alert.id.clone()).collect();
        Job::Send(plan)
    }

    /// A message was accepted.
    pub(super) fn accept(&self, plan: &Plan, reference: Option<String>) {
        let acceptance = self.state().threads.accept(plan, reference);
        self.outbox.change(Change::Told {
            channel: self.name,
            told: acceptance.told,
            over: acceptance.over,
            references: acceptance.references,
        });
    }

    /// Whether what is under way has waited for longer than is configured.
    pub(super) fn is_too_old(&self, bundle: &Bundle) -> bool {
        let state = self.state();
        state.gate.is_too_old(bundle, state.now)
    }

    /// An incident is over, and the channel is not told so.
    pub(super) fn forget(&self, incident: &str) {
        if self.state().threads.forget(incident) {
            let over = vec![incident.to_owned()];
            self.outbox.change(Change::Told { channel: self.name, told: Vec::new(), over, references: None });
        }
    }

    /// The fate of what was under way is known.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        state.is_busy = false;
        state.under_way.clear();
        drop(state);
        self.idle.notify_one();
    }

    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.work.notify_one();
        self.hurry.notify_one();
    }

    /// Waits until nothing is left that may go. Only after [`close`](Self::close) does that stay so.
    pub(super) async fn drained(&self) {
        while !self.is_settled() {
            self.idle.notified().await;
        }
    }

    /// Gives up what is left in memory and returns how much that was. A message whose attempt is under way is part of it.
    pub(super) fn abandon(&self) -> u64 {
        let left = {
            let state = self.state();
            let (waiting, _) = state.gate.counts();
            waiting.saturating_add(state.left).saturating_add(u64::from(state.is_busy))
        };
        if left > 0 && !self.is_screen() {
            if self.outbox.is_durable() {
                tracing::warn!(
                    channel = self.name,
                    left,
                    "alerts were not sent before the agent stopped; they wait in the outbox"
                );
            } else {
                self.dropped.fetch_add(left, Relaxed);
                tracing::warn!(
                    channel = self.name,
                    left,
                    "alerts were not sent before the agent stopped, and are lost: there is no data_dir"
                );
            }
        }
        left
    }

    /// Alerts that wait, alerts that the rate limit has held up.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.state().gate.counts()
    }

    fn overall(&self) -> MutexGuard<'_, Bucket> {
        self.overall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_settled(&self) -> bool {
        let state = self.state();
        state.has_ended || !state.is_busy && state.gate.counts().0 == 0
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half-changed in a way that matters: at worst an alert is told twice.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message of what is not over, for a service that would otherwise take it for over.
fn refreshing(news: Vec<crate::model::News>) -> Option<Message> {
    let first = Arc::clone(&news.first()?.alert);
    Some(Message { news, ..Message::of(first) })
}
