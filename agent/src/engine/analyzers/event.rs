//! Kernel events: each is a finding, unless its row says that only a burst of them is.
//!
//! A row states severity, unit and meaning of one event metric; probes and log patterns name the row's metric.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Analyzer, Finding, Phase, Row};
use crate::config::Config;
use crate::engine::text;
use crate::model::{Evidence, KernelEvent, Labels, Metric, Severity, Timestamp, Unit};

pub(super) const ROW: Row = Row {
    name: "event",
    summary: "each kernel event is a finding; retransmits are one in bursts",
    build: |config| Box::new(Event::new(config)),
};

/// When an event is worth a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Always.
    Each,
    /// When `[ebpf] tcp_retransmit_burst` of them fall into [`BURST_WINDOW`] for the same labels, and more than [`BURST_SHARE`] of
    /// what was sent, where that is known.
    Burst,
    /// As a condition, which changes with each event and is over with one of count 0.
    Condition,
}

/// What there is to know about one event metric.
#[derive(Debug)]
pub struct EventRow {
    /// Name, unit of the value, meaning.
    pub metric: &'static Metric,
    /// How bad one is.
    pub severity: Severity,
    /// When it is worth a finding.
    pub rule: Rule,
    /// The stem of the probe that reports it; empty where no probe does.
    pub signal: &'static str,
}

/// The source of events that a collector concluded from what it read.
pub const POLL: &str = "poll";

/// The time within which events make a burst.
pub const BURST_WINDOW: Duration = Duration::from_secs(10);
/// Share of the segments of a connection that must have been sent again: fewer are nothing to a connection that sends much.
pub const BURST_SHARE: f64 = 0.02;
/// Subjects whose bursts are followed at a time; events of further ones are dropped and counted.
const MAX_SUBJECTS: usize = 4096;
/// Events of one subject that are kept apart; further ones are added to the latest.
const MAX_EVENTS: usize = 32;

/// `kernel_oom_kill`
pub static OOM_KILL: Metric = Metric::gauge(
    "kernel_oom_kill",
    Unit::Count,
    "Processes that the OOM killer killed; labels pid, comm, cgroup of the victim.",
);
/// `kernel_hung_task`
pub static HUNG_TASK: Metric = Metric::gauge(
    "kernel_hung_task",
    Unit::Seconds,
    "Least time that a task has been blocked for, by the kernel's hung-task detector; 0 where unknown; labels pid, comm.",
);
/// `kernel_block_io_slow`
pub static BLOCK_IO_SLOW: Metric = Metric::gauge(
    "kernel_block_io_slow",
    Unit::Milliseconds,
    "Latency of a block request slower than [ebpf] block_io_slow_ms; labels device, operation.",
);
/// `kernel_block_io_error`
pub static BLOCK_IO_ERROR: Metric =
    Metric::gauge("kernel_block_io_error", Unit::Count, "Block requests that failed; labels device, operation.");
/// `kernel_tcp_retransmit`
pub static TCP_RETRANSMIT: Metric = Metric::gauge(
    "kernel_tcp_retransmit",
    Unit::Count,
    "TCP segments of one connection that were sent again within 10 seconds; labels of the connection.",
);
/// `kernel_fd_exhausted`
pub static FD_EXHAUSTED: Metric = Metric::gauge(
    "kernel_fd_exhausted",
    Unit::Count,
    "Descriptors that a process (EMFILE) or the system (ENFILE) had open when it was refused another; labels pid, comm.",
);
/// `agent_overhead`
pub static OVERHEAD: Metric = Metric::gauge(
    "agent_overhead",
    Unit::Percent,
    "What the agent costs in percent of its budget, because of which it does less; label resource: cpu or memory.",
);

/// All event metrics.
pub const EVENTS: &[EventRow] = &[
    EventRow { metric: &OOM_KILL, severity: Severity::Critical, rule: Rule::Each, signal: "oom" },
    EventRow { metric: &HUNG_TASK, severity: Severity::Warn, rule: Rule::Each, signal: "hung_task" },
    EventRow { metric: &BLOCK_IO_SLOW, severity: Severity::Warn, rule: Rule::Each, signal: "block_io" },
    EventRow { metric: &BLOCK_IO_ERROR, severity: Severity::Critical, rule: Rule::Each, signal: "block_io" },
    EventRow { metric: &TCP_RETRANSMIT, severity: Severity::Warn, rule: Rule::Burst, signal: "tcp_retransmit" },
    // Critical: this is no forecast. A process that is refused descriptors fails its clients now, and ENFILE fails everybody.
    EventRow { metric: &FD_EXHAUSTED, severity: Severity::Critical, rule: Rule::Each, signal: "fd" },
    EventRow { metric: &OVERHEAD, severity: Severity::Info, rule: Rule::Condition, signal: "" },
];

/// The row of an event metric.
pub fn row(metric: &str) -> Option<&'static EventRow> {
    EVENTS.iter().find(|row| row.metric.name == metric)
}

/// How bad an event of this metric is, with these facts; `otherwise` where they make no difference.
///
/// An OOM kill that a limit asked for is Critical: somebody set it. One of a host that has no memory left concerns everybody, and one
/// of a child of PID 1 ended a whole service.
pub fn severity(metric: &str, evidence: &Evidence, otherwise: Severity) -> Severity {
    let whole_host = evidence.get("constraint").is_some_and(|constraint| constraint == "none");
    let service = evidence.get("parent_pid").is_some_and(|parent| parent == 1);
    if metric == OOM_KILL.name && (whole_host || service) { Severity::Emergency } else { otherwise }
}

/// The event as a finding.
pub fn finding(at: Timestamp, row: &EventRow, event: &KernelEvent) -> Finding {
    Finding {
        metric: row.metric.name,
        labels: event.labels.clone(),
        phase: Phase::Occurred,
        severity: severity(row.metric.name, &event.evidence, row.severity),
        value: if event.value.is_finite() { event.value } else { 0.0 },
        threshold: event.threshold.filter(|threshold| threshold.is_finite()),
        message: event.message.clone(),
        since: at,
        count: event.count.max(1),
        source: event.source,
        evidence: event.evidence.clone(),
    }
}

/// The events of one subject within the window, oldest first.
#[derive(Debug, Default)]
struct Recent(VecDeque<(Timestamp, u64)>);

impl Recent {
    fn expire(&mut self, at: Timestamp) {
        // Whatever lies in the future was seen before the clock was set back.
        self.0.retain(|(time, _)| *time <= at && at.since(*time) < BURST_WINDOW);
    }

    fn add(&mut self, at: Timestamp, count: u64) {
        self.expire(at);
        let full = self.0.len() >= MAX_EVENTS;
        match self.0.back_mut() {
            Some(last) if full => *last = (at, last.1.saturating_add(count)),
            _ => self.0.push_back((at, count)),
        }
    }

    fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// A burst that is being followed.
#[derive(Debug, Default)]
struct Subject {
    recent: Recent,
    /// Segments sent, and sent again, since the connection began, at the first event of the burst.
    first: Option<(f64, f64)>,
    /// Whether the window was full enough at the last event: what it held then has been told of.
    told: bool,
}

impl Subject {
    /// Share of the segments sent since the burst began that were sent again; of all since the connection began where this is the
    /// first event.
    fn share(&mut self, evidence: &Evidence) -> Option<f64> {
        let number = |name| evidence.get(name).and_then(serde_json::Value::as_f64);
        let now = (number("segments_sent")?, number("segments_sent_again")?);
        // Counters that fell have wrapped.
        let first = *self.first.get_or_insert(now);
        let (sent, again) = (now.0 - first.0, now.1 - first.1);
        let (sent, again) = if sent > 0.0 && again >= 0.0 { (sent, again) } else { now };
        (sent > 0.0).then_some(again / sent)
    }
}

struct Event {
    burst: u64,
    subjects: BTreeMap<(&'static str, Labels), Subject>,
    dropped: u64,
}

impl Event {
    fn new(config: &Config) -> Self {
        Self { burst: u64::from(config.ebpf.tcp_retransmit_burst).max(1), subjects: BTreeMap::new(), dropped: 0 }
    }

    /// Adds an event to its subject; `Some((events within the window, those not told of yet))` where that is a burst.
    fn burst(&mut self, at: Timestamp, metric: &'static str, event: &KernelEvent) -> Option<(u64, u64)> {
        let key = (metric, event.labels.clone());
        if self.subjects.len() >= MAX_SUBJECTS && !self.subjects.contains_key(&key) {
            self.dropped += 1;
            return None;
        }
        let subject = self.subjects.entry(key).or_default();
        let count = event.count.max(1);
        subject.recent.add(at, count);
        let sum = subject.recent.sum();
        let matters = subject.share(&event.evidence).is_none_or(|share| share > BURST_SHARE);
        let told = std::mem::replace(&mut subject.told, sum >= self.burst && matters);
        subject.told.then_some((sum, if told { count } else { sum }))
    }
}

impl Analyzer for Event {
    fn reconfigure(&mut self, config: &Config) {
        self.burst = u64::from(config.ebpf.tcp_retransmit_burst).max(1);
    }

    fn event(&mut self, at: Timestamp, event: &KernelEvent, findings: &mut Vec<Finding>) {
        let Some(row) = row(event.metric) else {
            self.dropped += 1;
            return;
        };
        // What polling found may be known already: that is decided where the other sources are known, in `stand_in`.
        if event.source == POLL {
            return;
        }
        let mut finding = finding(at, row, event);
        if row.rule == Rule::Condition {
            finding.phase = if event.count == 0 { Phase::Cleared } else { Phase::Changed };
        }
        if row.rule == Rule::Burst {
            let Some((sum, new)) = self.burst(at, row.metric.name, event) else { return };
            finding.count = new;
            #[expect(clippy::cast_precision_loss, reason = "a count of events; beyond 2^53 the last digits don't matter")]
            {
                finding.value = sum as f64;
                finding.threshold = Some(self.burst as f64);
            }
            finding.message =
                format!("{}; {} times within {}, threshold {}", event.message, sum, text::duration(BURST_WINDOW), self.burst);
        }
        findings.push(finding);
    }

    fn tick(&mut self, at: Timestamp, _: &crate::engine::Store, _: &mut Vec<Finding>) {
        self.subjects.retain(|_, subject| {
            subject.recent.expire(at);
            !subject.recent.0.is_empty()
        });
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Store;

    fn retransmit(peer: &str, count: u64) -> KernelEvent {
        KernelEvent {
            metric: TCP_RETRANSMIT.name,
            labels: Labels::new().with("peer", peer),
            value: f64::NAN,
            threshold: None,
            count,
            message: format!("segments to {peer} were sent again"),
            source: "probe",
            evidence: Evidence::new(),
        }
    }

    fn feed(event: &mut Event, at: f64, kernel_event: &KernelEvent) -> Vec<Finding> {
        let mut findings = Vec::new();
        #[expect(clippy::cast_possible_truncation, reason = "small test times")]
        event.event(Timestamp::from_nanos((at * 1e9) as i64), kernel_event, &mut findings);
        findings
    }

    #[test]
    fn retransmits_count_in_bursts_per_connection() {
        let mut event = Event::new(&Config::default());
        assert_eq!(feed(&mut event, 0.5, &retransmit("a", 3)), []);
        assert_eq!(feed(&mut event, 1.0, &retransmit("b", 4)), []);
        // The first three have left the window by a hair.
        assert_eq!(feed(&mut event, 10.5, &retransmit("a", 3)), []);
        let findings = feed(&mut event, 20.4, &retransmit("a", 2));
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].value, findings[0].threshold, findings[0].count), (5.0, Some(5.0), 5));
        assert_eq!(findings[0].message, "segments to a were sent again; 5 times within 10 s, threshold 5");
    }

    #[test]
    fn what_is_little_of_all_that_is_sent_is_no_burst() {
        let mut event = Event::new(&Config::default());
        let mut sent_again = |at, sent: u32, again: u32| {
            let mut retransmit = retransmit("busy", 5);
            retransmit.evidence.insert("segments_sent".into(), sent.into());
            retransmit.evidence.insert("segments_sent_again".into(), again.into());
            feed(&mut event, at, &retransmit).len()
        };
        assert_eq!(sent_again(0.0, 1_000_000, 5), 0);
        assert_eq!(sent_again(1.0, 1_001_000, 10), 0, "5 of 1,000");
        assert_eq!(sent_again(2.0, 1_001_100, 40), 1, "35 of 1,100");
        // A connection of which nothing was known before.
        let mut new = Event::new(&Config::default());
        let mut young = retransmit("young", 5);
        young.evidence.insert("segments_sent".into(), 20.into());
        young.evidence.insert("segments_sent_again".into(), 5.into());
        assert_eq!(feed(&mut new, 0.0, &young).len(), 1);
    }

    #[test]
    fn followed_connections_are_bounded_and_expire() {
        let mut event = Event::new(&Config::default());
        for n in 0..=MAX_SUBJECTS {
            feed(&mut event, 0.0, &retransmit(&n.to_string(), 1));
        }
        assert_eq!((event.subjects.len(), event.dropped()), (MAX_SUBJECTS, 1));
        event.tick(Timestamp::from_secs(11), &Store::new(1), &mut Vec::new());
        assert_eq!(event.subjects.len(), 0);
        assert_eq!(feed(&mut event, 12.0, &retransmit("new", 5)).len(), 1);
    }

    #[test]
    fn one_connection_keeps_few_events() {
        let mut event = Event::new(&Config::default());
        for _ in 0..10_000 {
            feed(&mut event, 1.0, &retransmit("a", 1));
        }
        assert_eq!(event.subjects.values().next().unwrap().recent.0.len(), MAX_EVENTS);
        assert_eq!(feed(&mut event, 1.0, &retransmit("a", 1))[0].value, 10_001.0);
    }

    #[test]
    fn a_condition_changes_with_each_event_and_is_over_with_one_of_none() {
        let mut event = Event::new(&Config::default());
        let phase = |event: &mut Event, count| {
            let step = KernelEvent { metric: OVERHEAD.name, ..retransmit("a", count) };
            feed(event, 0.0, &step).first().map(|finding| finding.phase)
        };
        assert_eq!([1, 1, 0].map(|count| phase(&mut event, count)), [Phase::Changed, Phase::Changed, Phase::Cleared].map(Some));
    }

    #[test]
    fn an_oom_kill_is_as_bad_as_what_it_ended() {
        let of = |facts: serde_json::Value| severity(OOM_KILL.name, facts.as_object().unwrap(), Severity::Critical);
        assert_eq!(of(serde_json::json!({ "constraint": "memcg", "parent_pid": 77 })), Severity::Critical);
        assert_eq!(of(serde_json::json!({})), Severity::Critical);
        assert_eq!(of(serde_json::json!({ "constraint": "none", "parent_pid": 77 })), Severity::Emergency);
        assert_eq!(of(serde_json::json!({ "constraint": "memcg", "parent_pid": 1 })), Severity::Emergency);
        let other = severity("kernel_hung_task", serde_json::json!({ "parent_pid": 1 }).as_object().unwrap(), Severity::Warn);
        assert_eq!(other, Severity::Warn);
    }

    #[test]
    fn an_event_without_a_row_is_counted() {
        let mut event = Event::new(&Config::default());
        let unknown = KernelEvent { metric: "kernel_unheard_of", ..retransmit("a", 9) };
        assert_eq!(feed(&mut event, 0.0, &unknown), []);
        assert_eq!(event.dropped(), 1);
    }
}
