//! What waits for one channel, and when it may go: grouping and rate limits. It decides with the time that it is handed.
//!
//! The first alert of a group (severity and metric family) may go at once and opens a window; what follows within it is gathered, and
//! goes as one bundle when it closes, which opens the next. Bundles that the rate limit holds up become one. An incident stands in a
//! bundle once, with its latest alert. Beyond [`DETAILS`] alerts the oldest of the mildest are only counted. Changes of messages that
//! are there already cost no token: they reach nobody's pocket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::bucket::Bucket;
use crate::model::{Alert, Severity, Tally, Timestamp};

/// Alerts of one channel that are kept with their text; of further ones only the number is.
pub(super) const DETAILS: usize = 2048;
/// Age from which an alert that waits is no news any more, and goes with its like in one digest.
pub(super) const STALE: Duration = Duration::from_secs(15 * 60);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// An alert that waits.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Its number in the outbox.
    pub(super) seq: u64,
    pub(super) alert: Arc<Alert>,
    /// Since when it waits.
    pub(super) since: Timestamp,
    /// Earlier alerts of the incident that this one has replaced.
    pub(super) superseded: u64,
    /// Whether its evidence is on disk only.
    pub(super) is_slim: bool,
}

/// What goes together.
#[derive(Clone, Debug, Default)]
pub(super) struct Bundle {
    /// In the order of time, each incident once.
    pub(super) items: Vec<Item>,
    /// What is only counted.
    tallies: BTreeMap<(Severity, String), u64>,
    /// Numbers of all alerts that it stands for.
    pub(super) seqs: Vec<u64>,
    /// How many of them the rate limit held up.
    pub(super) held: u64,
    /// The idempotency key, where an attempt may have been made already.
    pub(super) key: Option<String>,
}

impl Bundle {
    /// A bundle of one alert.
    pub(super) fn of(item: Item) -> Self {
        let mut bundle = Self::default();
        bundle.push(item);
        bundle
    }

    pub(super) fn push(&mut self, mut item: Item) {
        self.seqs.push(item.seq);
        if let Some(at) = self.items.iter().position(|known| known.alert.id == item.alert.id) {
            let earlier = self.items.remove(at);
            item.superseded = item.superseded.saturating_add(earlier.superseded).saturating_add(1);
        }
        self.items.push(item);
    }

    fn append(&mut self, other: Self) {
        for item in other.items {
            let seq = item.seq;
            self.push(item);
            // It comes with the numbers below.
            debug_assert_eq!(self.seqs.last(), Some(&seq));
            self.seqs.pop();
        }
        self.seqs.extend(other.seqs);
        for (kind, count) in other.tallies {
            *self.tallies.entry(kind).or_default() += count;
        }
        self.held = self.held.saturating_add(other.held);
    }

    /// How many alerts it stands for.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.seqs.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seqs.is_empty()
    }

    pub(super) fn tallies(&self) -> Vec<Tally> {
        let tally = |((severity, metric), count): (&(Severity, String), &u64)| Tally {
            severity: *severity,
            metric: metric.clone(),
            count: *count,
        };
        self.tallies.iter().rev().map(tally).collect()
    }

    /// Since when its oldest alert waits.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.items.iter().map(|item| item.since).min()
    }

    fn is_stale(&self, at: Timestamp) -> bool {
        self.key.is_none() && self.is_older(STALE, at)
    }

    fn is_older(&self, age: Duration, at: Timestamp) -> bool {
        self.items.iter().all(|item| at.since(item.since) >= age)
    }

    fn worst(&self) -> Option<Severity> {
        self.items.iter().map(|item| item.alert.severity).max()
    }

    /// Makes a number of the oldest of its mildest alerts.
    fn count_one(&mut self, mildest: Severity) -> bool {
        let Some(at) = self.items.iter().position(|item| item.alert.severity == mildest) else { return false };
        let item = self.items.remove(at);
        *self.tallies.entry((mildest, item.alert.metric.clone().into_owned())).or_default() += 1 + item.superseded;
        true
    }

    fn mildest(&self) -> Option<Severity> {
        self.items.iter().map(|item| item.alert.severity).min()
    }
}

/// What decides when something may go.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    /// How long a group is gathered; `None`: each alert goes by itself.
    pub(super) window: Option<Duration>,
    pub(super) per_minute: u32,
    pub(super) per_hour: u32,
    /// Whether Emergency passes without a token.
    pub(super) emergency_bypass: bool,
    /// Age at which what waits is given up.
    pub(super) max_age: Duration,
}

#[derive(Debug)]
struct Group {
    until: Timestamp,
    waiting: Bundle,
}

/// A group's severity and metric family; changes of messages that are there make a group of their own.
type Kind = (Option<Severity>, String);

/// The gate of one channel.
#[derive(Debug)]
pub(super) struct Gate {
    policy: Policy,
    minute: Bucket,
    hour: Bucket,
    groups: BTreeMap<Kind, Group>,
    /// What may go, as soon as there is a token.
    ready: VecDeque<Bundle>,
    /// What may go in any case.
    changes: VecDeque<Bundle>,
    /// Whether what is ready has been held up by the rate limit.
    is_held: bool,
    /// Alerts that the rate limit held up.
    held: u64,
}

impl Gate {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            minute: Bucket::new(policy.per_minute, MINUTE),
            hour: Bucket::new(policy.per_hour, HOUR),
            policy,
            groups: BTreeMap::new(),
            ready: VecDeque::new(),
            changes: VecDeque::new(),
            is_held: false,
            held: 0,
        }
    }

    pub(super) fn reconfigure(&mut self, policy: Policy) {
        self.minute.resize(policy.per_minute);
        self.hour.resize(policy.per_hour);
        self.policy = policy;
    }

    /// A message that left before this gate was made.
    pub(super) fn remember(&mut self, at: Timestamp) {
        self.minute.take(at);
        self.hour.take(at);
    }

    /// Takes an alert; `is_change` where it only changes a message that is there.
    pub(super) fn take(&mut self, at: Timestamp, item: Item, is_change: bool) {
        let alert = &item.alert;
        let kind = (!is_change).then_some(alert.severity);
        let family = if is_change { alert.id.as_str() } else { alert.metric.split('_').next().unwrap_or_default() };
        match (self.policy.window, self.groups.get_mut(&(kind, family.to_owned()))) {
            (Some(_), Some(group)) => group.waiting.push(item),
            (Some(window), None) => {
                let group = Group { until: at.plus(window), waiting: Bundle::default() };
                self.groups.insert((kind, family.to_owned()), group);
                self.queue(Bundle::of(item), is_change);
            }
            (None, _) => self.queue(Bundle::of(item), is_change),
        }
        if self.details() > DETAILS {
            self.count_one();
        }
    }

    /// What waited when the agent stopped, in its order; what was tried already goes first and as it was.
    pub(super) fn restore(&mut self, bundle: Bundle) {
        self.ready.push_back(bundle);
        while self.details() > DETAILS {
            self.count_one();
        }
    }

    /// The rest of a bundle that came out of [`next`](Self::next).
    pub(super) fn put_back(&mut self, bundle: Bundle, is_change: bool) {
        if is_change { self.changes.push_front(bundle) } else { self.ready.push_front(bundle) }
    }

    /// Closes windows that have passed.
    pub(super) fn tick(&mut self, at: Timestamp) {
        let window = self.policy.window;
        // A clock that was set back closes those that would last longer than any window.
        let over = |group: &Group| at >= group.until || window.is_none_or(|window| group.until.since(at) > window);
        let mut closed = Vec::new();
        self.groups.retain(|(kind, _), group| {
            if !over(group) {
                return true;
            }
            if group.waiting.is_empty() {
                return false;
            }
            closed.push((kind.is_none(), std::mem::take(&mut group.waiting)));
            group.until = window.map_or(at, |window| at.plus(window));
            true
        });
        // The order of a map says nothing: what waited longest goes first.
        closed.sort_by_key(|(_, bundle)| bundle.seqs.first().copied());
        for (is_change, bundle) in closed {
            self.queue(bundle, is_change);
        }
    }

    /// Closes every window: there will be no further tick.
    pub(super) fn close(&mut self) {
        let mut all: Vec<_> = std::mem::take(&mut self.groups).into_iter().collect();
        all.retain(|(_, group)| !group.waiting.is_empty());
        all.sort_by_key(|(_, group)| group.waiting.seqs.first().copied());
        for ((kind, _), group) in all {
            self.queue(group.waiting, kind.is_none());
        }
    }

    /// What may go now, and whether it has only changes. `overall` is the bucket that all channels share.
    pub(super) fn next(&mut self, at: Timestamp, overall: &mut Bucket) -> Option<(Bundle, bool)> {
        let urgent = |bundle: &Bundle| bundle.worst() == Some(Severity::Emergency);
        if self.policy.emergency_bypass
            && let Some(bundle) = self.ready.iter().position(urgent).and_then(|place| self.ready.remove(place))
        {
            self.spend(at, overall);
            return Some((bundle, false));
        }
        if !self.ready.is_empty() {
            if self.minute.has_token(at) && self.hour.has_token(at) && overall.has_token(at) {
                self.spend(at, overall);
                return self.pop(at).map(|bundle| (bundle, false));
            }
            self.is_held = true;
        }
        self.changes.pop_front().map(|bundle| (bundle, true))
    }

    /// A message more that leaves, beside those of [`next`](Self::next).
    pub(super) fn spend(&mut self, at: Timestamp, overall: &mut Bucket) {
        self.minute.take(at);
        self.hour.take(at);
        overall.take(at);
    }

    /// Takes out what has waited longer than the policy allows: its numbers.
    pub(super) fn expire(&mut self, at: Timestamp) -> Vec<u64> {
        let max_age = self.policy.max_age;
        let mut gone = Vec::new();
        for queue in [&mut self.ready, &mut self.changes] {
            queue.retain(|bundle| {
                let is_old = bundle.is_older(max_age, at);
                if is_old {
                    gone.extend_from_slice(&bundle.seqs);
                }
                !is_old
            });
        }
        gone
    }

    /// Whether all of a bundle has waited for longer than the policy allows.
    pub(super) fn is_too_old(&self, bundle: &Bundle, at: Timestamp) -> bool {
        bundle.is_older(self.policy.max_age, at)
    }

    /// Whether an alert about this incident waits.
    pub(super) fn holds(&self, incident: &str) -> bool {
        self.bundles().any(|bundle| bundle.items.iter().any(|item| item.alert.id == incident))
    }

    /// Whether something could go, but for tokens.
    pub(super) fn is_waiting(&self) -> bool {
        !self.ready.is_empty() || !self.changes.is_empty()
    }

    /// Alerts that wait, and those that the rate limit has held up so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.bundles().map(Bundle::count).sum(), self.held)
    }

    /// Alerts that wait with their text.
    pub(super) fn details(&self) -> usize {
        self.bundles().map(|bundle| bundle.items.len()).sum()
    }

    fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.groups.values().map(|group| &group.waiting).chain(&self.ready).chain(&self.changes)
    }

    fn queue(&mut self, bundle: Bundle, is_change: bool) {
        if is_change { self.changes.push_back(bundle) } else { self.ready.push_back(bundle) }
    }

    /// The first bundle; with it all that the rate limit has held up, or all that is stale, so that one message says it.
    fn pop(&mut self, at: Timestamp) -> Option<Bundle> {
        let mut first = self.ready.pop_front()?;
        if first.key.is_some() {
            return Some(first);
        }
        if std::mem::take(&mut self.is_held) {
            while let Some(place) = self.ready.iter().position(|bundle| bundle.key.is_none()) {
                first.append(self.ready.remove(place).unwrap_or_default());
            }
            first.held = first.count();
            self.held = self.held.saturating_add(first.held);
        } else if first.is_stale(at) {
            while self.ready.front().is_some_and(|next| next.is_stale(at)) {
                first.append(self.ready.pop_front().unwrap_or_default());
            }
        }
        Some(first)
    }

    /// Keeps of one alert only that it was. A bundle is never left without any: what was the last of it is counted with its neighbour.
    fn count_one(&mut self) {
        let bundles = self.bundles().filter(|bundle| bundle.key.is_none());
        let Some(mildest) = bundles.filter_map(Bundle::mildest).min() else { return };
        let waiting = self.groups.values_mut().map(|group| &mut group.waiting);
        let mut counted = Bundle::default();
        for bundle in self.ready.iter_mut().chain(waiting).chain(&mut self.changes).filter(|bundle| bundle.key.is_none()) {
            if bundle.count_one(mildest) {
                if bundle.items.is_empty() {
                    counted = std::mem::take(bundle);
                }
                break;
            }
        }
        if counted.is_empty() {
            return;
        }
        for queue in [&mut self.ready, &mut self.changes] {
            queue.retain(|bundle| !bundle.is_empty());
        }
        let waiting = self.groups.values_mut().map(|group| &mut group.waiting);
        if let Some(next) = self.ready.iter_mut().chain(waiting).chain(&mut self.changes).find(|bundle| !bundle.items.is_empty())
        {
            next.append(counted);
        }
    }
}
