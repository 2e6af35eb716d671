//! The kernel's log and its counters: they stand in for probes that are not there, and bear witness to those that are.
//!
//! A line that a probe should have reported as well waits [`GRACE`] for the probe's event. If that comes, the line is a witness;
//! if not, the probe missed something and the line becomes the finding. A counter that rose waits for lines (and events) in
//! the same way; what nobody explains is reported as unconfirmed. Lines of kinds that have no probe are findings at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::json;

use super::{Analyzer, Finding, Phase, Row, event};
use crate::config::Config;
use crate::engine::patterns::{Found, PATTERNS, Pattern, Patterns};
use crate::engine::store::{SeriesId, Store};
use crate::model::{Evidence, KernelEvent, Labels, LogRecord, Metric, SeriesKey, Severity, SourceState, Timestamp};

pub(super) const ROW: Row = Row {
    name: "stand_in",
    summary: "kernel log lines and counters where no probe reports, and as witnesses where one does",
    build: |_| Box::new(StandIn::new()),
};

/// How long one source waits for another to tell of the same thing.
const GRACE: Duration = Duration::from_secs(3);
/// How long an event or line can explain what another source tells of later; longer than a counter's interval.
const MEMORY: Duration = Duration::from_secs(180);
/// Events remembered, and lines that wait; beyond that the oldest event is forgotten, the oldest line reported at once.
const MAX_REMEMBERED: usize = 256;

/// The log source whose lines are the kernel's own.
const KERNEL_LOG: &str = "kmsg";

/// A counter that rises with every event of one kind.
struct Counter {
    series: &'static str,
    signal: &'static str,
    metric: &'static Metric,
    /// What it counts, for a human.
    name: &'static str,
    /// What a log line would name, for a human.
    subject: &'static str,
}

const COUNTERS: [Counter; 2] = [
    Counter { series: "kernel_oom_kills_total", signal: "oom", metric: &event::OOM_KILL, name: "OOM kill", subject: "victim" },
    Counter {
        series: "kernel_hung_tasks_total",
        signal: "hung_task",
        metric: &event::HUNG_TASK,
        name: "Hung task",
        subject: "task",
    },
];

/// Labels of which one in common means that two sources tell of the same thing.
const IDENTIFYING: [&str; 2] = ["pid", "device"];

/// An event that a probe reported.
struct Seen {
    at: Timestamp,
    metric: &'static str,
    labels: Labels,
}

/// A line that waits for its probe.
struct Waiting {
    finding: Finding,
    signal: &'static str,
}

/// What is known of one counter.
struct Tally {
    counter: &'static Counter,
    last: Option<f64>,
    /// Rises that nobody has explained yet.
    unexplained: VecDeque<(Timestamp, u64)>,
}

struct StandIn {
    patterns: Patterns,
    probed: BTreeSet<&'static str>,
    seen: VecDeque<Seen>,
    waiting: VecDeque<Waiting>,
    tallies: BTreeMap<SeriesId, Tally>,
    /// By metric: events and lines that no counter has accounted for yet.
    credits: BTreeMap<&'static str, VecDeque<(Timestamp, u64)>>,
}

impl StandIn {
    fn new() -> Self {
        Self {
            patterns: Patterns::new(),
            probed: BTreeSet::new(),
            seen: VecDeque::new(),
            waiting: VecDeque::new(),
            tallies: BTreeMap::new(),
            credits: BTreeMap::new(),
        }
    }

    /// `count` things of `metric` have been told of: that explains rises of its counter, earlier or later ones.
    fn explain(&mut self, at: Timestamp, metric: &'static str, count: u64) {
        let mut left = count;
        for tally in self.tallies.values_mut().filter(|tally| tally.counter.metric.name == metric) {
            left = settle(&mut tally.unexplained, left);
        }
        if left > 0 && COUNTERS.iter().any(|counter| counter.metric.name == metric) {
            let credits = self.credits.entry(metric).or_default();
            if credits.len() >= MAX_REMEMBERED {
                credits.pop_front();
            }
            credits.push_back((at, left));
        }
    }

    fn witness(finding: Finding, labels: Labels) -> Finding {
        Finding { phase: Phase::Witnessed, labels, count: 0, ..finding }
    }

    /// The finding of a line whose probe kept silent.
    fn missed(&mut self, waiting: Waiting) -> Finding {
        let mut finding = waiting.finding;
        if self.probed.contains(waiting.signal) {
            finding.evidence.insert("probe".into(), json!("did not report this"));
        }
        self.explain(finding.since, finding.metric, finding.count);
        finding
    }
}

/// Takes `available` off the front of `owed`; returns what is left of it.
fn settle(owed: &mut VecDeque<(Timestamp, u64)>, mut available: u64) -> u64 {
    while let Some((_, amount)) = owed.front_mut() {
        if *amount > available {
            *amount -= available;
            return 0;
        }
        available -= *amount;
        owed.pop_front();
    }
    available
}

/// Whether `at` lies no more than `limit` before or after `time`.
fn within(limit: Duration, time: Timestamp, at: Timestamp) -> bool {
    at.since(time).max(time.since(at)) <= limit
}

/// Whether a probe's labels and a line's labels name the same thing.
fn same_subject(probe: &Labels, line: &Labels) -> bool {
    IDENTIFYING.iter().any(|name| match (probe.get(name), line.get(name)) {
        (Some(disk), Some(device)) if *name == "device" => disk == device || is_partition(disk, device),
        (Some(one), Some(other)) => one == other,
        _ => false,
    })
}

/// Whether `device` is a partition of `disk`: `sda1` of `sda`, `nvme0n1p2` of `nvme0n1`. The log may name one where the probe
/// names the other.
fn is_partition(disk: &str, device: &str) -> bool {
    let number = device
        .strip_prefix(disk)
        .and_then(|rest| if disk.ends_with(|last: char| last.is_ascii_digit()) { rest.strip_prefix('p') } else { Some(rest) });
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn finding(at: Timestamp, pattern: &Pattern, found: Found) -> Finding {
    Finding {
        metric: pattern.metric.name,
        labels: found.labels,
        phase: Phase::Occurred,
        severity: pattern.severity,
        value: found.value,
        threshold: None,
        message: found.message,
        since: at,
        count: u64::from(!found.is_detail),
        source: KERNEL_LOG,
        evidence: found.evidence,
    }
}

fn unconfirmed(at: Timestamp, counter: &Counter, count: u64) -> Finding {
    let mut evidence = Evidence::new();
    evidence.insert("counter".into(), json!(counter.series));
    evidence.insert("rose_by".into(), json!(count));
    Finding {
        metric: counter.metric.name,
        labels: Labels::new(),
        phase: Phase::Occurred,
        severity: event::row(counter.metric.name).map_or(Severity::Warn, |row| row.severity),
        value: if counter.metric.name == event::OOM_KILL.name {
            f64::from(u32::try_from(count).unwrap_or(u32::MAX))
        } else {
            0.0
        },
        threshold: None,
        message: format!(
            "{} unconfirmed: the counter {} rose by {count}, no log line names the {}",
            counter.name, counter.series, counter.subject
        ),
        since: at,
        count,
        source: "counter",
        evidence,
    }
}

impl Analyzer for StandIn {
    fn reconfigure(&mut self, _: &Config) {}

    fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        let Some(counter) = COUNTERS.iter().find(|counter| counter.series == key.metric().name) else { return false };
        self.tallies.insert(id, Tally { counter, last: None, unexplained: VecDeque::new() });
        true
    }

    fn forget(&mut self, _: Timestamp, id: SeriesId, _: &SeriesKey, _: &mut Vec<Finding>) {
        self.tallies.remove(&id);
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, _: &Store, _: &mut Vec<Finding>) {
        let Some(tally) = self.tallies.get_mut(&id) else { return };
        let rise = tally.last.replace(value).map_or(0.0, |last| value - last);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates; a fall is a reset and counts as none"
        )]
        let mut rise = rise as u64;
        if let Some(credits) = self.credits.get_mut(tally.counter.metric.name) {
            credits.retain(|(time, _)| within(MEMORY, *time, at));
            rise = settle(credits, rise);
        }
        // While the probe reports, its events name what was counted, or it counts its own losses.
        if rise > 0 && !self.probed.contains(tally.counter.signal) && tally.unexplained.len() < MAX_REMEMBERED {
            tally.unexplained.push_back((at, rise));
        }
    }

    fn event(&mut self, at: Timestamp, event: &KernelEvent, findings: &mut Vec<Finding>) {
        self.waiting.retain(|waiting| {
            let told = waiting.finding.metric == event.metric && same_subject(&event.labels, &waiting.finding.labels);
            if told {
                findings.push(Self::witness(waiting.finding.clone(), event.labels.clone()));
            }
            !told
        });
        if PATTERNS.iter().any(|pattern| pattern.signal.is_some() && pattern.metric.name == event.metric) {
            if self.seen.len() >= MAX_REMEMBERED {
                self.seen.pop_front();
            }
            self.seen.push_back(Seen { at, metric: event.metric, labels: event.labels.clone() });
        }
        self.explain(at, event.metric, event.count.max(1));
    }

    fn log(&mut self, at: Timestamp, record: &LogRecord, findings: &mut Vec<Finding>) {
        if record.source != KERNEL_LOG {
            return;
        }
        let Some((pattern, found)) = self.patterns.read(at, &record.text) else { return };
        let finding = finding(at, pattern, found);
        let Some(signal) = pattern.signal else {
            findings.push(finding);
            return;
        };
        if !self.probed.contains(signal) {
            self.explain(at, finding.metric, finding.count);
            findings.push(finding);
            return;
        }
        let same = |seen: &&Seen| {
            seen.metric == finding.metric && within(MEMORY, seen.at, at) && same_subject(&seen.labels, &finding.labels)
        };
        if let Some(seen) = self.seen.iter().rev().find(same) {
            findings.push(Self::witness(finding, seen.labels.clone()));
            return;
        }
        if self.waiting.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.waiting.pop_front()
        {
            findings.push(self.missed(oldest));
        }
        self.waiting.push_back(Waiting { finding, signal });
    }

    fn source(&mut self, state: &SourceState) {
        if state.probed {
            self.probed.insert(state.signal);
        } else {
            self.probed.remove(state.signal);
        }
    }

    fn tick(&mut self, at: Timestamp, _: &Store, findings: &mut Vec<Finding>) {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| !within(GRACE, waiting.finding.since, at)) {
            findings.push(self.missed(waiting));
        }
        for tally in self.tallies.values_mut() {
            let mut count: u64 = 0;
            while let Some((_, amount)) = tally.unexplained.pop_front_if(|(time, _)| !within(GRACE, *time, at)) {
                count = count.saturating_add(amount);
            }
            if count > 0 {
                findings.push(unconfirmed(at, tally.counter, count));
            }
        }
    }
}
