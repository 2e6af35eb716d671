//! Takes the messages of one channel to its notifier, in order, one at a time, until each was accepted, refused for good, or too old.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::backoff;
use super::lane::{Job, Lane};
use super::outbox::Change;
use super::threads::Plan;
use crate::model::{Message, News};
use crate::notifiers::{Accepted, Channel, Rendered, SendError};

/// Alerts whose evidence is read back from disk for one message; one of more shows no evidence.
const FULL: usize = 16;

/// What an attempt has left when the channel is configured anew.
const GRACE: Duration = Duration::from_secs(2);

/// The worker of one channel.
#[derive(Clone)]
pub struct Courier {
    lane: Arc<Lane>,
}

/// What came of a message.
enum Verdict {
    Accepted(Accepted),
    /// Refused for good.
    Refused(SendError),
    /// The agent stops; the outbox has it.
    Left(SendError),
}

impl Courier {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane }
    }

    /// Name of the channel.
    pub fn name(&self) -> &'static str {
        self.lane.name()
    }

    /// Delivers until the router is flushed and nothing is left. One task at a time may run this for a channel. A message whose
    /// rendering or sending panics counts as refused.
    pub async fn run(&self) {
        loop {
            match self.lane.next() {
                Job::Send(plan) => self.deliver(plan).await,
                Job::Refresh(message) => self.refresh(&message).await,
                Job::Wait => self.lane.work.notified().await,
                Job::End => return,
            }
        }
    }

    async fn deliver(&self, mut plan: Plan) {
        let lane = &*self.lane;
        let mut fate = Fate { lane, plan: None };
        if lane.is_screen() {
            let channel = Arc::clone(&lane.state().channel);
            fate.plan = Some(plan);
            let Some(plan) = &fate.plan else { return };
            let rendered = channel.notifier.render(&plan.message, &lane.sender);
            let verdict = match channel.notifier.send(&rendered).await {
                Ok(accepted) => Verdict::Accepted(accepted),
                Err(error) => Verdict::Refused(error),
            };
            return fate.known(verdict);
        }
        let (key, seqs) = (plan.message.delivery.clone(), plan.bundle.seqs.clone());
        lane.outbox.change(Change::Composed { channel: lane.name(), key, seqs });
        lane.outbox.synced().await;
        self.complete(&mut plan).await;
        fate.plan = Some(plan);
        let Some(plan) = &fate.plan else { return };
        let verdict = self.attempts(plan).await;
        if matches!(verdict, Verdict::Accepted(_)) {
            for other in &plan.others {
                let channel = Arc::clone(&lane.state().channel);
                let rendered = channel.notifier.render(other, &lane.sender);
                if let Err(error) = channel.notifier.send(&rendered).await {
                    tracing::debug!(channel = lane.name(), %error, "an earlier message of the incident was not brought up to date");
                }
            }
        }
        fate.known(verdict);
    }

    /// Reads back the evidence that memory did not keep.
    async fn complete(&self, plan: &mut Plan) {
        let slim: Vec<u64> = plan.bundle.items.iter().filter(|item| item.is_slim).map(|item| item.seq).collect();
        if slim.is_empty() || slim.len() > FULL {
            return;
        }
        let loaded = self.lane.outbox.load(slim).await;
        for (item, News { alert, .. }) in plan.bundle.items.iter().zip(&mut plan.message.news) {
            if let Some((_, full)) = loaded.iter().find(|(seq, _)| *seq == item.seq) {
                Arc::make_mut(alert).evidence.clone_from(&full.evidence);
            }
        }
    }

    async fn attempts(&self, plan: &Plan) -> Verdict {
        let lane = &*self.lane;
        let message = &plan.message;
        let mut failed = 0_u32;
        loop {
            let channel = Arc::clone(&lane.state().channel);
            let rendered = channel.notifier.render(message, &lane.sender);
            let error = match self.attempt(&channel, &rendered).await {
                Some(Ok(accepted)) => return Verdict::Accepted(accepted),
                Some(Err(error @ SendError::Permanent { .. })) => return Verdict::Refused(error),
                Some(Err(error)) => error,
                // The channel is another now.
                None => continue,
            };
            failed = failed.saturating_add(1);
            let after = if let SendError::Retry { after, .. } = &error { *after } else { None };
            let wait = backoff::wait(channel.retry, failed, after, &message.delivery);
            if lane.state().is_closed {
                return Verdict::Left(error);
            }
            if lane.is_too_old(&plan.bundle) {
                let reason = format!("{error}; it is older than [alerting.outbox] max_age_hours");
                return Verdict::Refused(SendError::Permanent { reason });
            }
            self.say(message, failed, &error, wait);
            // The end of the agent leaves no time to wait, but for one more attempt.
            let _ = tokio::time::timeout(wait, lane.hurry.notified()).await;
            lane.retried.fetch_add(1, Relaxed);
        }
    }

    /// One attempt; `None` where another configuration of the channel came meanwhile.
    async fn attempt(&self, channel: &Arc<Channel>, rendered: &Rendered) -> Option<Result<Accepted, SendError>> {
        let lane = &*self.lane;
        let replaced = async {
            loop {
                lane.hurry.notified().await;
                if !Arc::ptr_eq(&lane.state().channel, channel) {
                    // What is about to be accepted need not be sent twice.
                    tokio::time::sleep(GRACE).await;
                    return;
                }
            }
        };
        tokio::select! {
            result = channel.notifier.send(rendered) => Some(result),
            () = replaced => None,
        }
    }

    /// Says once that the channel fails: when the attempts that its configuration allows in a row are used up.
    fn say(&self, message: &Message, failed: u32, error: &SendError, wait: Duration) {
        let lane = &*self.lane;
        let mut state = lane.state();
        if failed > state.channel.retry.count && !state.is_failing {
            state.is_failing = true;
            drop(state);
            tracing::error!(
                channel = lane.name(),
                delivery = message.delivery,
                %error,
                "not accepted in {failed} attempts; kept, and tried again every now and then"
            );
        } else {
            drop(state);
            tracing::debug!(channel = lane.name(), delivery = message.delivery, %error, ?wait, "not accepted, will be sent again");
        }
    }

    /// Tells again what is not over. The next refresh makes good for one that fails.
    async fn refresh(&self, message: &Message) {
        let lane = &*self.lane;
        let channel = Arc::clone(&lane.state().channel);
        let rendered = channel.notifier.render(message, &lane.sender);
        if let Err(error) = channel.notifier.send(&rendered).await {
            tracing::debug!(channel = lane.name(), %error, "what is not over could not be told again");
        }
    }
}

/// Sees to it that a message is counted once, however its delivery ends.
struct Fate<'a> {
    lane: &'a Lane,
    plan: Option<Plan>,
}

impl Fate<'_> {
    fn known(mut self, verdict: Verdict) {
        let lane = self.lane;
        let Some(plan) = self.plan.take() else { return };
        let delivery = &plan.message.delivery;
        match verdict {
            Verdict::Accepted(accepted) => {
                lane.sent.fetch_add(1, Relaxed);
                let mut state = lane.state();
                let was_failing = std::mem::take(&mut state.is_failing);
                state.outcome = Some(Ok(accepted.answer));
                drop(state);
                if was_failing {
                    tracing::info!(channel = lane.name(), "accepts alerts again");
                }
                lane.accept(&plan, accepted.reference);
                self.settled(&plan, None);
            }
            Verdict::Refused(error) => {
                lane.failed.fetch_add(1, Relaxed);
                tracing::error!(channel = lane.name(), delivery, %error, "refused for good and given up");
                let reason = error.to_string();
                lane.state().outcome = Some(Err(reason.clone()));
                self.settled(&plan, Some(reason));
            }
            Verdict::Left(error) => {
                let mut state = lane.state();
                state.outcome = Some(Err(error.to_string()));
                state.left = state.left.saturating_add(plan.bundle.count());
                drop(state);
                if !lane.outbox.is_durable() {
                    lane.failed.fetch_add(1, Relaxed);
                    tracing::error!(channel = lane.name(), delivery, %error, "not accepted before the agent stopped");
                }
            }
        }
    }

    fn settled(&self, plan: &Plan, refused: Option<String>) {
        let lane = self.lane;
        let (key, seqs, at) = (plan.message.delivery.clone(), plan.bundle.seqs.clone(), lane.state().now);
        lane.outbox.change(Change::Settled { channel: lane.name(), key, seqs, at, refused });
    }
}

/// Also where sending panicked: a message that brings the program down must not be tried for ever.
impl Drop for Fate<'_> {
    fn drop(&mut self) {
        if let Some(plan) = self.plan.take().filter(|_| std::thread::panicking()) {
            self.lane.failed.fetch_add(1, Relaxed);
            self.settled(&plan, Some("the agent failed while it was sending this".to_owned()));
        }
        self.lane.settle();
    }
}
