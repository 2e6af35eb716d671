//! The kernel's counters of what probes and log lines tell one by one: each rise is explained by something told, or reported.

use std::collections::{BTreeMap, VecDeque};

use serde_json::json;

use super::{GRACE, MAX_REMEMBERED, MEMORY, dispute, within, witness_of};
use crate::engine::analyzers::{Finding, Phase, event};
use crate::engine::store::SeriesId;
use crate::model::{Evidence, Labels, Metric, SeriesKey, Severity, Timestamp};

/// What a counter calls itself as a source.
const SOURCE: &str = "counter";

/// A counter that rises with every event of one kind.
pub struct Counter {
    series: &'static str,
    metric: &'static Metric,
    /// The stem of the probe that tells of the events.
    pub signal: &'static str,
    /// What it counts, for a human.
    name: &'static str,
    /// What a log line would name, for a human.
    subject: &'static str,
}

const COUNTERS: [Counter; 2] = [
    Counter { series: "kernel_oom_kills_total", metric: &event::OOM_KILL, signal: "oom", name: "OOM kill", subject: "victim" },
    Counter {
        series: "kernel_hung_tasks_total",
        metric: &event::HUNG_TASK,
        signal: "hung_task",
        name: "Hung task",
        subject: "task",
    },
];

/// What is known of one counter.
struct Tally {
    counter: &'static Counter,
    /// Its value, and since when it is known without a fall.
    last: Option<f64>,
    since: Timestamp,
    /// Rises that nobody has explained yet.
    unexplained: VecDeque<(Timestamp, u64)>,
}

/// Something that was told and that no counter has accounted for yet.
struct Credit {
    at: Timestamp,
    labels: Labels,
    left: u64,
    /// Whether a counter that does not rise for it contradicts whoever told of it.
    is_owed: bool,
}

/// All counters.
#[derive(Default)]
pub struct Counters {
    tallies: BTreeMap<SeriesId, Tally>,
    /// By metric.
    credits: BTreeMap<&'static str, VecDeque<Credit>>,
}

impl Counters {
    /// Whether the series is a counter that is followed.
    pub fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        let Some(counter) = COUNTERS.iter().find(|counter| counter.series == key.metric().name) else { return false };
        self.tallies.insert(id, Tally { counter, last: None, since: Timestamp::default(), unexplained: VecDeque::new() });
        true
    }

    /// Ends following a series.
    pub fn forget(&mut self, id: SeriesId) {
        self.tallies.remove(&id);
    }

    /// `count` things of `metric` have been told of: that explains rises of its counter, earlier or later ones.
    pub fn explain(&mut self, told: &Finding, is_owed: bool, findings: &mut Vec<Finding>) {
        let mut left = told.count;
        for tally in self.tallies.values_mut().filter(|tally| tally.counter.metric.name == told.metric) {
            let before = left;
            while let Some((_, amount)) = tally.unexplained.front_mut() {
                let taken = left.min(*amount);
                (*amount, left) = (*amount - taken, left - taken);
                if *amount > 0 {
                    break;
                }
                tally.unexplained.pop_front();
            }
            if left < before {
                findings.push(witness_of(told.metric, &told.labels, SOURCE));
            }
        }
        if left == 0 || !COUNTERS.iter().any(|counter| counter.metric.name == told.metric) {
            return;
        }
        let credits = self.credits.entry(told.metric).or_default();
        let is_full = credits.len() >= MAX_REMEMBERED;
        match credits.back_mut() {
            // What is one too many to be kept apart still explains a rise.
            Some(last) if is_full => last.left = last.left.saturating_add(left),
            _ => credits.push_back(Credit { at: told.since, labels: told.labels.clone(), left, is_owed }),
        }
    }

    /// A counter was read.
    pub fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, findings: &mut Vec<Finding>) {
        let Some(tally) = self.tallies.get_mut(&id) else { return };
        let metric = tally.counter.metric.name;
        let last = tally.last.replace(value);
        if last.is_none_or(|last| value < last) {
            tally.since = at;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates; a fall is a reset and counts as none"
        )]
        let mut rise = last.map_or(0.0, |last| value - last) as u64;
        let credits = self.credits.entry(metric).or_default();
        credits.retain(|credit| within(MEMORY, credit.at, at));
        while rise > 0
            && let Some(credit) = credits.front_mut()
        {
            let taken = rise.min(credit.left);
            (credit.left, rise) = (credit.left - taken, rise - taken);
            findings.push(witness_of(metric, &credit.labels, SOURCE));
            if credit.left > 0 {
                break;
            }
            credits.pop_front();
        }
        // What was told of well after the counter was first read, and well before now, must have been counted by now.
        let (since, name) = (tally.since, tally.counter.series);
        let owed = credits.iter_mut().filter(|credit| credit.is_owed && credit.at > since && at > credit.at);
        for credit in owed.filter(|credit| !within(GRACE, credit.at, at)) {
            credit.is_owed = false;
            findings.push(dispute(metric, &credit.labels, SOURCE, format!("the counter {name} did not rise")));
        }
        if rise > 0 && tally.unexplained.len() < MAX_REMEMBERED {
            tally.unexplained.push_back((at, rise));
        }
    }

    /// The rises that nobody has explained in time.
    pub fn overdue(&mut self, at: Timestamp, is_probed: impl Fn(&str) -> bool, findings: &mut Vec<Finding>) {
        for tally in self.tallies.values_mut() {
            let mut count: u64 = 0;
            while let Some((_, amount)) = tally.unexplained.pop_front_if(|(time, _)| !within(GRACE, *time, at)) {
                count = count.saturating_add(amount);
            }
            if count > 0 {
                findings.push(unconfirmed(at, tally.counter, count, is_probed(tally.counter.signal)));
            }
        }
    }
}

fn unconfirmed(at: Timestamp, counter: &Counter, count: u64, is_probed: bool) -> Finding {
    let mut evidence = Evidence::new();
    evidence.insert("counter".into(), json!(counter.series));
    evidence.insert("rose_by".into(), json!(count));
    if is_probed {
        evidence.insert("probe".into(), json!("did not report this"));
    }
    let Counter { name, series, subject, metric, .. } = counter;
    let nobody = if is_probed { "neither the probe nor a log line" } else { "no log line" };
    Finding {
        metric: metric.name,
        labels: Labels::new(),
        phase: Phase::Occurred,
        severity: event::row(metric.name).map_or(Severity::Warn, |row| row.severity),
        value: if metric.name == event::OOM_KILL.name { f64::from(u32::try_from(count).unwrap_or(u32::MAX)) } else { 0.0 },
        threshold: None,
        message: format!("{name} unconfirmed: the counter {series} rose by {count}, {nobody} names the {subject}"),
        since: at,
        count,
        source: SOURCE,
        evidence,
    }
}
