//! Takes the messages of one channel to its notifier, in order, one at a time, as often as the channel's policy allows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::backoff;
use super::queue::Queue;
use crate::model::{Alert, Message, Severities};
use crate::notifiers::{Channel, SendError, Sender};

/// A channel with its queue and counters: what the router and the courier share.
pub(super) struct Lane {
    channel: Channel,
    sender: Arc<Sender>,
    state: Mutex<State>,
    /// Something to do for the courier: a message, or the end.
    work: Notify,
    /// The lane was closed, for a courier that waits between two attempts.
    closing: Notify,
    /// Nothing left to do, for whoever flushes.
    idle: Notify,
    sent: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// A message left the queue and its fate is open.
    busy: bool,
    closed: bool,
    /// Something was dropped since the queue was last empty; the next drop is no news.
    dropping: bool,
    /// The last message failed; the next failure is no news.
    failing: bool,
}

impl Lane {
    pub(super) fn new(channel: Channel, sender: Arc<Sender>) -> Self {
        Self {
            channel,
            sender,
            state: Mutex::default(),
            work: Notify::new(),
            closing: Notify::new(),
            idle: Notify::new(),
            sent: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.channel.name
    }

    pub(super) fn severities(&self) -> Severities {
        self.channel.severities
    }

    /// Sent, retried, failed, dropped, queued.
    pub(super) fn counts(&self) -> [f64; 5] {
        let queued = self.state().queue.len();
        let total = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        [total(&self.sent), total(&self.retried), total(&self.failed), total(&self.dropped), queued as f64]
    }

    pub(super) fn push(&self, alert: Arc<Alert>) {
        let mut state = self.state();
        let gone = if state.closed { Some(alert) } else { state.queue.push(alert) };
        if let Some(gone) = gone {
            self.dropped.fetch_add(1, Relaxed);
            if !std::mem::replace(&mut state.dropping, true) {
                tracing::warn!(channel = self.name(), delivery = gone.delivery, "queue full, alert dropped; more are counted");
            }
        }
        drop(state);
        self.work.notify_one();
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_one();
        self.closing.notify_one();
    }

    /// Waits until every message has met its fate. Only after [`close`](Self::close) does that stay so.
    pub(super) async fn drained(&self) {
        while !self.settled() {
            self.idle.notified().await;
        }
    }

    /// Gives up what is left and returns how much that was. A message whose attempt is under way is part of it, but the
    /// courier's to count.
    pub(super) fn abandon(&self) -> usize {
        let (queued, busy) = {
            let mut state = self.state();
            (state.queue.clear(), state.busy)
        };
        self.dropped.fetch_add(u64::try_from(queued).unwrap_or(u64::MAX), Relaxed);
        let left = queued + usize::from(busy);
        if left > 0 {
            tracing::warn!(channel = self.name(), left, "alerts were not sent before the agent stopped");
        }
        left
    }

    fn settled(&self) -> bool {
        let state = self.state();
        state.queue.len() == 0 && !state.busy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half-changed: each change is one assignment or one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker of one channel.
#[derive(Clone)]
pub struct Courier {
    lane: Arc<Lane>,
}

impl Courier {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane }
    }

    /// Name of the channel.
    pub fn name(&self) -> &'static str {
        self.lane.name()
    }

    /// Delivers until the router is flushed and nothing is left. One task at a time may run this for a channel. A message that
    /// is on its way when the future is dropped or panics counts as failed.
    pub async fn run(&self) {
        let lane = &*self.lane;
        loop {
            let (alert, closed) = {
                let mut state = lane.state();
                let alert = state.queue.pop();
                state.busy = alert.is_some();
                state.dropping &= state.busy;
                (alert, state.closed)
            };
            match alert {
                Some(alert) => self.deliver(alert).await,
                None if closed => return,
                None => lane.work.notified().await,
            }
        }
    }

    async fn deliver(&self, alert: Arc<Alert>) {
        let lane = &*self.lane;
        let fate = Fate { lane, sent: false };
        let message = lane.channel.notifier.render(&Message::of(alert), &lane.sender);
        let mut failed = 0_u32;
        let error = loop {
            let (error, after) = match lane.channel.notifier.send(&message).await {
                Ok(_) => return fate.sent(),
                Err(error @ SendError::Permanent { .. }) => break error,
                Err(SendError::Retry { reason, after }) => (SendError::Retry { reason, after }, after),
            };
            failed = failed.saturating_add(1);
            let Some(wait) = backoff::wait(lane.channel.retry, failed, after) else { break error };
            if lane.state().closed {
                break error;
            }
            tracing::debug!(channel = lane.name(), delivery = message.delivery, %error, ?wait, "not accepted, will be sent again");
            // The end of the agent leaves no time to wait, but for one more attempt.
            let _ = tokio::time::timeout(wait, lane.closing.notified()).await;
            lane.retried.fetch_add(1, Relaxed);
        };
        fate.failed(&message.delivery, &error);
    }
}

/// Sees to it that a message is counted once, however its delivery ends.
struct Fate<'a> {
    lane: &'a Lane,
    sent: bool,
}

impl Fate<'_> {
    fn sent(mut self) {
        self.sent = true;
        if std::mem::take(&mut self.lane.state().failing) {
            tracing::info!(channel = self.lane.name(), failed = self.lane.failed.load(Relaxed), "accepts alerts again");
        }
    }

    fn failed(self, delivery: &str, error: &SendError) {
        if std::mem::replace(&mut self.lane.state().failing, true) {
            tracing::debug!(channel = self.lane.name(), delivery, %error, "alert not delivered");
        } else {
            tracing::error!(channel = self.lane.name(), delivery, %error, "alert not delivered; further failures are counted");
        }
    }
}

impl Drop for Fate<'_> {
    fn drop(&mut self) {
        let counter = if self.sent { &self.lane.sent } else { &self.lane.failed };
        counter.fetch_add(1, Relaxed);
        self.lane.state().busy = false;
        self.lane.idle.notify_one();
    }
}
