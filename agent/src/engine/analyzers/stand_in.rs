//! What stands in for probes that are not there, and bears witness to those that are: the kernel's log, polling, its counters.
//!
//! Whoever tells of something first has found it; what other sources say of the same subject within [`MEMORY`] makes them its
//! witnesses. With one exception: while a signal's probe is attached, the others wait [`GRACE`] for it, and only what it missed
//! becomes a finding. A counter that rose waits for somebody who explains it in the same way; what nobody explains is reported as
//! unconfirmed. The other way round, what a probe told and the log or a counter should have seen and did not is a disagreement.
//! Lines of kinds that have no probe are findings at once.

mod counters;
mod expected;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::json;

use self::counters::Counters;
use self::expected::Expectations;
use super::{Analyzer, Finding, Phase, Row, event};
use crate::config::Config;
use crate::engine::patterns::{Found, Pattern, Patterns};
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::model::{Evidence, KernelEvent, Labels, LogRecord, SeriesKey, Severity, SourceState, Timestamp};

pub(super) const ROW: Row = Row {
    name: "stand_in",
    summary: "kernel log lines, polling and counters where no probe reports, and as witnesses where one does",
    build: |_| Box::new(StandIn::new()),
};

/// How long one source waits for another to tell of the same thing.
const GRACE: Duration = Duration::from_secs(3);
/// How long an event or line can explain what another source tells of later; longer than a counter's interval.
const MEMORY: Duration = Duration::from_secs(180);
/// Events of one metric that are remembered, and findings that wait; beyond that the oldest event is forgotten, the oldest finding
/// reported at once.
const MAX_REMEMBERED: usize = 256;

/// The log that the kernel writes itself, and of which something can be expected.
const KERNEL_LOG: &str = "kmsg";
/// The source of events that come from BPF.
const PROBE: &str = "probe";

/// Labels of which one in common means that two sources tell of the same thing.
const IDENTIFYING: [&str; 2] = ["pid", "device"];

/// What somebody told of first.
struct Seen {
    at: Timestamp,
    labels: Labels,
    /// The thread of the process in the labels, where it was one that it befell.
    thread: Option<String>,
    source: &'static str,
}

impl Seen {
    fn new(at: Timestamp, finding: &Finding) -> Self {
        let thread = finding.evidence.get("thread").map(ToString::to_string);
        Self { at, labels: finding.labels.clone(), thread, source: finding.source }
    }

    fn is(&self, labels: &Labels) -> bool {
        same_subject(&self.labels, labels) || self.thread.as_deref().is_some_and(|thread| labels.get("pid") == Some(thread))
    }
}

/// A finding that waits for its probe.
struct Waiting {
    finding: Finding,
    signal: &'static str,
}

struct StandIn {
    patterns: Patterns,
    probed: BTreeSet<&'static str>,
    /// By metric, those that more than one source names the subjects of.
    seen: BTreeMap<&'static str, VecDeque<Seen>>,
    waiting: VecDeque<Waiting>,
    counters: Counters,
    expectations: Expectations,
}

impl StandIn {
    fn new() -> Self {
        Self {
            patterns: Patterns::new(),
            probed: BTreeSet::new(),
            seen: BTreeMap::new(),
            waiting: VecDeque::new(),
            counters: Counters::default(),
            expectations: Expectations::default(),
        }
    }

    fn remember(&mut self, at: Timestamp, finding: &Finding) {
        // Each retransmit would be remembered, and no other source names one.
        if finding.metric == event::TCP_RETRANSMIT.name {
            return;
        }
        let seen = self.seen.entry(finding.metric).or_default();
        if seen.len() >= MAX_REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(Seen::new(at, finding));
    }

    /// Who told of this subject last, unless it was the finding's own source.
    fn told_by_another(&self, at: Timestamp, finding: &Finding) -> Option<&Seen> {
        let mut seen = self.seen.get(finding.metric)?.iter().rev();
        let last = seen.find(|seen| within(MEMORY, seen.at, at) && seen.is(&finding.labels))?;
        (last.source != finding.source).then_some(last)
    }

    /// Says something that nobody else has told, or bears witness to who has.
    fn tell(&mut self, at: Timestamp, finding: Finding, findings: &mut Vec<Finding>) {
        if let Some(seen) = self.told_by_another(at, &finding) {
            findings.push(witness(finding, seen.labels.clone()));
            return;
        }
        // A detail of what was told is nothing new.
        if finding.count > 0 {
            self.remember(at, &finding);
        }
        findings.push(finding.clone());
        self.counters.explain(&finding, false, findings);
    }

    /// Keeps a finding until its probe has had time to tell of it.
    fn wait(&mut self, at: Timestamp, finding: Finding, signal: &'static str, findings: &mut Vec<Finding>) {
        if let Some(seen) = self.told_by_another(at, &finding) {
            findings.push(witness(finding, seen.labels.clone()));
            return;
        }
        if self.waiting.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.conclude(at, oldest, findings);
        }
        self.waiting.push_back(Waiting { finding, signal });
    }

    /// Tells of what the probe kept silent about.
    fn conclude(&mut self, at: Timestamp, mut waiting: Waiting, findings: &mut Vec<Finding>) {
        if self.probed.contains(waiting.signal) {
            waiting.finding.evidence.insert("probe".into(), json!("did not report this"));
        }
        self.tell(at, waiting.finding, findings);
    }

    /// A collector has found something.
    fn polled(&mut self, at: Timestamp, row: &'static event::EventRow, event: &KernelEvent, findings: &mut Vec<Finding>) {
        let finding = event::finding(at, row, event);
        if !self.probed.contains(row.signal) {
            self.tell(at, finding, findings);
            return;
        }
        let is_due = match row.metric.name {
            // The detector looks as often as its limit, so it may take twice that.
            metric if metric == event::HUNG_TASK.name => finding.threshold.is_none_or(|limit| finding.value >= 2.0 * limit),
            // The probe measures from the request's way to the device to its end. It knows neither of one that waited before, nor
            // of one that has not ended.
            metric if metric == event::BLOCK_IO_SLOW.name => true,
            // The others see each single one, where polling sees a sum or a state.
            _ => false,
        };
        if is_due {
            self.wait(at, finding, row.signal, findings);
        } else {
            let labels = self.told_by_another(at, &finding).map_or_else(|| finding.labels.clone(), |seen| seen.labels.clone());
            findings.push(witness(finding, labels));
        }
    }
}

/// The finding as the testimony of a witness to what is known by `labels`.
fn witness(finding: Finding, labels: Labels) -> Finding {
    Finding { phase: Phase::Witnessed, labels, count: 0, ..finding }
}

/// A remark about an incident without facts of its own.
fn remark(phase: Phase, metric: &'static str, labels: &Labels, source: &'static str, message: String) -> Finding {
    Finding {
        metric,
        labels: labels.clone(),
        phase,
        severity: Severity::Info,
        value: 0.0,
        threshold: None,
        message,
        since: Timestamp::default(),
        count: 0,
        source,
        evidence: Evidence::new(),
    }
}

/// The testimony of a source that knows no more than that it happened.
fn witness_of(metric: &'static str, labels: &Labels, source: &'static str) -> Finding {
    remark(Phase::Witnessed, metric, labels, source, String::new())
}

/// The silence of a source that should have told.
fn dispute(metric: &'static str, labels: &Labels, source: &'static str, sentence: String) -> Finding {
    remark(Phase::Disputed, metric, labels, source, sentence)
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

fn finding(at: Timestamp, source: &'static str, pattern: &Pattern, found: Found) -> Finding {
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
        source,
        evidence: found.evidence,
    }
}

impl Analyzer for StandIn {
    fn reconfigure(&mut self, _: &Config) {}

    fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        self.counters.watch(id, key) || self.expectations.watch(id, key)
    }

    fn forget(&mut self, _: Timestamp, id: SeriesId, _: &SeriesKey, _: &mut Vec<Finding>) {
        self.counters.forget(id);
        self.expectations.forget(id);
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, _: &Store, findings: &mut Vec<Finding>) {
        self.counters.sample(at, id, value, findings);
        self.expectations.sample(at, id, value);
    }

    fn event(&mut self, at: Timestamp, event: &KernelEvent, findings: &mut Vec<Finding>) {
        let Some(row) = event::row(event.metric).filter(|row| !row.signal.is_empty()) else { return };
        if event.source != PROBE {
            self.polled(at, row, event, findings);
            return;
        }
        let told = event::finding(at, row, event);
        self.remember(at, &told);
        let seen = Seen::new(at, &told);
        self.waiting.retain(|waiting| {
            let is_told = waiting.finding.metric == event.metric && seen.is(&waiting.finding.labels);
            if is_told {
                findings.push(witness(waiting.finding.clone(), event.labels.clone()));
            }
            !is_told
        });
        self.expectations.expect(at, event, seen);
        self.counters.explain(&told, true, findings);
    }

    fn log(&mut self, at: Timestamp, record: &LogRecord, findings: &mut Vec<Finding>) {
        if !record.is_kernel {
            return;
        }
        let Some((pattern, found)) = self.patterns.read(at, &record.text) else { return };
        let mut finding = finding(at, record.source, pattern, found);
        for (name, fact) in &record.facts {
            finding.evidence.entry(name).or_insert_with(|| fact.clone());
        }
        finding.severity = event::severity(finding.metric, &finding.evidence, finding.severity);
        // What happened while the agent was not there has no other witness, and explains nothing of the present.
        let Some(signal) = pattern.signal.filter(|_| record.written.is_none()) else {
            let logged = record.written.map(|written| ("logged_at".to_owned(), json!(text::time(written))));
            finding.evidence.extend(logged);
            findings.push(finding);
            return;
        };
        self.expectations.hear(at, finding.metric, &finding.labels);
        if self.probed.contains(signal) {
            self.wait(at, finding, signal, findings);
        } else {
            self.tell(at, finding, findings);
        }
    }

    fn source(&mut self, at: Timestamp, state: &SourceState) {
        if state.signal == KERNEL_LOG {
            self.expectations.log(at, state.probed);
        } else if state.probed {
            self.probed.insert(state.signal);
        } else {
            self.probed.remove(state.signal);
        }
    }

    fn tick(&mut self, at: Timestamp, _: &Store, findings: &mut Vec<Finding>) {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| !within(GRACE, waiting.finding.since, at)) {
            self.conclude(at, waiting, findings);
        }
        let probed = &self.probed;
        self.counters.overdue(at, |signal| probed.contains(signal), findings);
        self.expectations.tick(at, findings);
    }
}
