//! From findings to messages: folds repetitions into incidents, follows each from begin to end, and names both.
//!
//! The identity of an incident is its metric and labels. Its severity only rises; a person who was told "critical" is next told
//! that it is over. A condition (a limit passed) is told when it begins, when it gets worse and when it is over; events are told
//! when they begin, at most every `min_interval` while they go on, and when they have not come for `dedup_window`. Routing, rate
//! limits and delivery are not decided here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::analyzers::{Finding, Phase};
use super::text;
use crate::config::Config;
use crate::model::{Alert, Evidence, Labels, Severity, Status, Timestamp};

/// Incidents open at a time. For a further one the oldest incident of events is closed without a word, and counted.
pub const MAX_OPEN: usize = 10_000;

/// Ids that a new incident must not have again.
const RECENT_IDS: usize = 1024;

/// Something that began and is not over.
#[derive(Clone, Debug)]
pub struct Incident {
    /// See [`Alert::id`].
    pub id: String,
    /// See [`Alert::metric`].
    pub metric: &'static str,
    /// See [`Alert::labels`].
    pub labels: Labels,
    /// The worst so far.
    pub severity: Severity,
    /// The latest value.
    pub value: f64,
    /// The limit it stands against.
    pub threshold: Option<f64>,
    /// What the latest finding said.
    pub message: String,
    /// When it began.
    pub started: Timestamp,
    /// When the latest finding came.
    pub last_seen: Timestamp,
    /// Single events or passing samples so far.
    pub count: u64,
    /// Kinds of sources that saw it.
    pub witnesses: BTreeSet<&'static str>,
    /// Who should have seen it and did not, in sentences.
    disagreements: Vec<String>,
    /// Whether silence ends it; otherwise an analyzer does.
    by_silence: bool,
    evidence: Evidence,
    /// Messages sent.
    messages: u64,
    last_message: Timestamp,
    /// Part of `count` that no message has told of.
    untold: u64,
}

impl Incident {
    fn alert(&mut self, at: Timestamp, status: Status, message: String) -> Alert {
        self.messages += 1;
        self.last_message = at;
        self.untold = 0;
        let mut evidence = self.evidence.clone();
        // A condition of samples has no other witness.
        if self.by_silence {
            evidence.insert("witnesses".into(), json!(self.witnesses));
        }
        if !self.disagreements.is_empty() {
            evidence.insert("disagreement".into(), json!(self.disagreements.join("; ")));
        }
        Alert {
            id: self.id.clone(),
            delivery: format!("{}-{}", self.id, self.messages),
            at,
            status,
            severity: self.severity,
            metric: self.metric,
            value: self.value,
            threshold: self.threshold,
            message,
            labels: self.labels.clone(),
            duration: at.since(self.started),
            count: self.count,
            evidence,
        }
    }

    /// Takes what a later finding says.
    fn take(&mut self, at: Timestamp, finding: Finding) {
        self.last_seen = at;
        self.count = self.count.saturating_add(finding.count);
        self.untold = self.untold.saturating_add(finding.count);
        self.witnesses.insert(finding.source);
        self.severity = self.severity.max(finding.severity);
        if finding.count == 0 && finding.phase != Phase::Cleared {
            self.evidence.extend(finding.evidence);
            return;
        }
        self.value = finding.value;
        self.threshold = finding.threshold;
        self.message = finding.message;
        if !finding.evidence.is_empty() {
            self.evidence = finding.evidence;
            self.evidence.entry("source").or_insert_with(|| json!(finding.source));
        }
    }

    /// The latest finding, and how often it came since the last message.
    fn repeated(&self, at: Timestamp) -> String {
        let minutes = at.since(self.last_message).as_secs().div_ceil(60).max(1);
        let times = text::counted(self.untold, "time");
        format!("{} (seen {times} in the last {})", self.message, text::counted(minutes, "minute"))
    }
}

/// Counts of messages and of what was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Findings taken.
    pub findings: u64,
    /// Incidents begun.
    pub firing: u64,
    /// Incidents that went on with something new.
    pub updated: u64,
    /// Incidents that ended with a message.
    pub resolved: u64,
    /// Findings that confirmed what another source had told.
    pub witnessed: u64,
    /// Incidents closed, or not opened, because too many were open.
    pub crowded_out: u64,
}

/// All open incidents.
#[derive(Debug)]
pub struct Incidents {
    hostname: String,
    min_interval: Duration,
    dedup_window: Duration,
    recovery_enabled: bool,
    /// In the order in which they were opened.
    open: BTreeMap<u64, Incident>,
    by_identity: BTreeMap<(&'static str, Labels), u64>,
    next_serial: u64,
    recent_ids: VecDeque<u64>,
    counts: Counts,
}

impl Incidents {
    pub(super) fn new(config: &Config, hostname: &str) -> Self {
        let mut incidents = Self {
            hostname: hostname.to_owned(),
            min_interval: Duration::ZERO,
            dedup_window: Duration::ZERO,
            recovery_enabled: true,
            open: BTreeMap::new(),
            by_identity: BTreeMap::new(),
            next_serial: 0,
            recent_ids: VecDeque::new(),
            counts: Counts::default(),
        };
        incidents.reconfigure(config);
        incidents
    }

    pub(super) fn reconfigure(&mut self, config: &Config) {
        self.min_interval = config.alerting.min_interval;
        self.dedup_window = config.alerting.dedup_window;
        self.recovery_enabled = config.alerting.recovery_enabled;
    }

    /// The open incidents, in the order in which they began.
    pub fn iter(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn take(&mut self, at: Timestamp, finding: Finding, alerts: &mut Vec<Alert>) {
        self.counts.findings += 1;
        let identity = (finding.metric, finding.labels.clone());
        let known = self.by_identity.get(&identity).copied();
        match (finding.phase, known.and_then(|serial| self.open.get_mut(&serial))) {
            (Phase::Witnessed, Some(incident)) => {
                self.counts.witnessed += 1;
                incident.witnesses.insert(finding.source);
                for (name, value) in finding.evidence {
                    incident.evidence.entry(name).or_insert(value);
                }
            }
            // Each sentence is told once: that of the next event of the same subject says nothing new.
            (Phase::Disputed, Some(incident)) => {
                if !incident.disagreements.contains(&finding.message) {
                    let message = format!("{}: {}", incident.message, finding.message);
                    incident.disagreements.push(finding.message);
                    alerts.push(incident.alert(at, Status::Updated, message));
                    self.counts.updated += 1;
                }
            }
            (Phase::Witnessed | Phase::Disputed, None) => {}
            (Phase::Cleared, Some(incident)) => {
                incident.take(at, finding);
                if let Some(serial) = known {
                    let message = self.open.get(&serial).map(|incident| incident.message.clone()).unwrap_or_default();
                    self.close(at, serial, message, alerts);
                }
            }
            (Phase::Cleared, None) => {}
            (Phase::Occurred | Phase::Holds | Phase::Changed, Some(incident)) => {
                let before = incident.severity;
                let changed = finding.phase == Phase::Changed;
                incident.take(at, finding);
                let worse = incident.severity > before;
                let goes_on = incident.by_silence && incident.untold > 0 && at.since(incident.last_message) >= self.min_interval;
                if worse || goes_on || changed {
                    let message = if incident.by_silence { incident.repeated(at) } else { incident.message.clone() };
                    alerts.push(incident.alert(at, Status::Updated, message));
                    self.counts.updated += 1;
                }
            }
            (Phase::Occurred | Phase::Holds | Phase::Changed, None) => self.open(at, identity, finding, alerts),
        }
    }

    fn open(&mut self, at: Timestamp, identity: (&'static str, Labels), finding: Finding, alerts: &mut Vec<Alert>) {
        if self.open.len() >= MAX_OPEN {
            self.counts.crowded_out += 1;
            let oldest = self.open.iter().find(|(_, incident)| incident.by_silence).map(|(serial, _)| *serial);
            let Some(incident) = oldest.and_then(|serial| self.open.remove(&serial)) else { return };
            self.by_identity.remove(&(incident.metric, incident.labels));
        }
        let mut evidence = finding.evidence;
        evidence.entry("source").or_insert_with(|| json!(finding.source));
        let mut incident = Incident {
            id: self.id(finding.metric, &finding.labels, finding.since),
            metric: finding.metric,
            labels: finding.labels,
            severity: finding.severity,
            value: finding.value,
            threshold: finding.threshold,
            message: finding.message,
            started: finding.since,
            last_seen: at,
            count: finding.count.max(1),
            witnesses: BTreeSet::from([finding.source]),
            disagreements: Vec::new(),
            by_silence: finding.phase == Phase::Occurred,
            evidence,
            messages: 0,
            last_message: at,
            untold: 0,
        };
        let message = incident.message.clone();
        alerts.push(incident.alert(at, Status::Firing, message));
        self.counts.firing += 1;
        self.by_identity.insert(identity, self.next_serial);
        self.open.insert(self.next_serial, incident);
        self.next_serial += 1;
    }

    fn close(&mut self, at: Timestamp, serial: u64, message: String, alerts: &mut Vec<Alert>) {
        let Some(mut incident) = self.open.remove(&serial) else { return };
        self.by_identity.remove(&(incident.metric, incident.labels.clone()));
        if self.recovery_enabled {
            alerts.push(incident.alert(at, Status::Resolved, format!("[RESOLVED] {message}")));
            self.counts.resolved += 1;
        }
    }

    /// Ends the incidents whose events have stopped.
    pub(super) fn tick(&mut self, at: Timestamp, alerts: &mut Vec<Alert>) {
        let mut over = Vec::new();
        for (serial, incident) in self.open.iter_mut().filter(|(_, incident)| incident.by_silence) {
            // A clock that was set back must not keep an incident open until it has caught up.
            incident.last_seen = incident.last_seen.min(at);
            incident.last_message = incident.last_message.min(at);
            if at.since(incident.last_seen) >= self.dedup_window {
                over.push(*serial);
            }
        }
        for serial in over {
            let Some(incident) = self.open.get(&serial) else { continue };
            let mut message = format!("{}: not seen again for {}", incident.message, text::duration(self.dedup_window));
            if incident.count > 1 {
                let span = text::duration(incident.last_seen.since(incident.started));
                // Writing to a string cannot fail.
                let _ = write!(message, ", after {} within {span}", text::counted(incident.count, "event"));
            }
            self.close(at, serial, message, alerts);
        }
    }

    /// A new id: 64-bit FNV-1a over what makes an incident unlike any other of this host, also over restarts.
    fn id(&mut self, metric: &str, labels: &Labels, started: Timestamp) -> String {
        let mut hash = Fnv1a::new();
        hash.field(self.hostname.as_bytes());
        hash.field(metric.as_bytes());
        for (name, value) in labels.iter() {
            hash.field(name.as_bytes());
            hash.field(value.as_bytes());
        }
        hash.field(&started.as_nanos().to_be_bytes());
        // Over and begun again within one instant.
        while self.recent_ids.contains(&hash.0) {
            hash.field(b"again");
        }
        if self.recent_ids.len() >= RECENT_IDS {
            self.recent_ids.pop_front();
        }
        self.recent_ids.push_back(hash.0);
        format!("{:016x}", hash.0)
    }
}

/// <http://www.isthe.com/chongo/tech/comp/fnv/>: unlike the standard library's hasher, the same in every release.
struct Fnv1a(u64);

impl Fnv1a {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes and an end mark that no UTF-8 text contains.
    fn field(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
