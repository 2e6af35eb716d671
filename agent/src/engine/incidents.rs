//! From findings to messages: folds repetitions into incidents, follows each from begin to end, and names both.
//!
//! A finding is named by its metric and labels; the same name is the same incident. So are findings about the same subject that begin
//! within [`TOGETHER`] of each other: the same process, device, mount, interface, cgroup or peer. The latest of the worst of them
//! speaks for the incident, an event before a condition. Its severity only rises, also because it lasts; a person who was told
//! "critical" is next told that it is over. A condition (a limit passed) is told when it begins, when it gets worse and when it is over; events are told
//! when they begin, at most every `min_interval` while they go on, and when they have not come for `dedup_window`. Routing, rate
//! limits and delivery are not decided here.

mod escalation;
mod incident;
mod naming;
mod restore;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::analyzers::{Finding, Phase};
use super::chains::{Identity, Link};
use super::text;
use crate::config::{Config, Escalation};
use crate::model::{Alert, Labels, Status, Timestamp};
use escalation::Persistence;
pub use incident::Incident;
use incident::{Member, of_finding};
use naming::subjects;

/// Incidents open at a time. For a further one the oldest incident of events is closed without a word, and counted.
pub const MAX_OPEN: usize = 10_000;

/// Ids that a new incident must not have again.
const RECENT_IDS: usize = 1024;
/// Longest silence of an incident after which what begins with the same subject is part of it.
const TOGETHER: Duration = Duration::from_secs(5 * 60);
/// Findings that an incident is made of, at most; a further one is another incident.
const MAX_MEMBERS: usize = 128;

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
    escalation: Escalation,
    last_tick: Option<Timestamp>,
    /// In the order in which they were opened.
    open: BTreeMap<u64, Incident>,
    by_identity: BTreeMap<Identity, u64>,
    /// By kind of subject and its name, the incident that was about it last.
    by_subject: BTreeMap<(&'static str, String), u64>,
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
            escalation: Escalation::default(),
            last_tick: None,
            open: BTreeMap::new(),
            by_identity: BTreeMap::new(),
            by_subject: BTreeMap::new(),
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
        self.escalation = config.alerting.escalation.clone();
    }

    /// The open incidents, in the order in which they began.
    pub fn iter(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a finding says something that no open incident has said.
    pub(super) fn begins(&self, finding: &Finding) -> bool {
        matches!(finding.phase, Phase::Occurred | Phase::Holds | Phase::Changed)
            && !self.by_identity.contains_key(&(finding.metric.into(), finding.labels.clone()))
    }

    /// Takes a finding, and where it [begins](Self::begins) something, what led to it.
    pub(super) fn take(&mut self, at: Timestamp, finding: Finding, causes: Vec<Link>, alerts: &mut Vec<Alert>) {
        self.counts.findings += 1;
        let identity: Identity = (finding.metric.into(), finding.labels.clone());
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
            (Phase::Paused | Phase::Resumed, Some(incident)) => {
                if let Some((_, member)) = incident.member(&identity) {
                    member.passes = finding.phase == Phase::Resumed;
                }
                incident.persistence.take(at, &finding);
            }
            (Phase::Witnessed | Phase::Disputed | Phase::Paused | Phase::Resumed, None) => {}
            (Phase::Cleared, Some(incident)) => {
                let speaks = incident.member(&identity).map(|(place, member)| {
                    member.take(at, &finding);
                    place
                });
                if speaks == Some(incident.speaker) {
                    incident.take(at, finding);
                } else {
                    incident.count(at, &finding);
                }
                let is_over = incident.is_over(at, self.dedup_window);
                if let Some(serial) = known.filter(|_| is_over) {
                    let message = self.open.get(&serial).map(|incident| incident.message.clone()).unwrap_or_default();
                    self.close(at, serial, message, alerts);
                }
            }
            (Phase::Cleared, None) => {}
            (Phase::Occurred | Phase::Holds | Phase::Changed, Some(incident)) => {
                let before = incident.severity;
                let changed = finding.phase == Phase::Changed;
                let place = incident.member(&identity).map(|(place, member)| {
                    member.take(at, &finding);
                    place
                });
                let worse = finding.severity > before;
                if place == Some(incident.speaker) {
                    incident.take(at, finding);
                } else if let Some(place) = place.filter(|_| worse) {
                    incident.speaker = place;
                    (incident.metric, incident.labels) = identity;
                    incident.take(at, finding);
                } else {
                    incident.count(at, &finding);
                }
                let by_silence = incident.by_silence();
                let goes_on = by_silence && incident.untold > 0 && at.since(incident.last_message) >= self.min_interval;
                if worse || goes_on || changed {
                    let message = incident.news(at);
                    alerts.push(incident.alert(at, Status::Updated, message));
                    self.counts.updated += 1;
                }
            }
            (Phase::Occurred | Phase::Holds | Phase::Changed, None) => self.begin(at, identity, finding, causes, alerts),
        }
    }

    /// Tells what came of something that was found earlier, where its incident is still open.
    pub(super) fn add_effect(&mut self, at: Timestamp, identity: &Identity, link: Link, alerts: &mut Vec<Alert>) {
        let serial = self.by_identity.get(identity);
        let Some(incident) = serial.and_then(|serial| self.open.get_mut(serial)) else { return };
        let message = format!("{}; {}", incident.message, link.text);
        if incident.chain.is_empty() {
            return;
        }
        incident.link([link]);
        alerts.push(incident.alert(at, Status::Updated, message));
        self.counts.updated += 1;
    }

    /// Something that no open incident has said: part of one that is about the same subject, or an incident of its own.
    fn begin(&mut self, at: Timestamp, identity: Identity, finding: Finding, causes: Vec<Link>, alerts: &mut Vec<Alert>) {
        let subjects: Vec<_> = subjects(&finding.labels).collect();
        let same = subjects.iter().find_map(|subject| self.by_subject.get(subject).copied());
        let incident = same
            .and_then(|serial| Some((serial, self.open.get_mut(&serial)?)))
            .filter(|(_, incident)| at.since(incident.last_seen) <= TOGETHER && incident.members.len() < MAX_MEMBERS);
        let serial = match incident {
            Some((serial, incident)) => {
                let (before, joins) = (incident.message.clone(), finding.message.clone());
                if incident.join(at, identity.clone(), finding, causes, self.min_interval) {
                    let speaks = incident.members.len() - 1 == incident.speaker;
                    let message = if speaks { format!("{joins} (after: {before})") } else { format!("{before} (also: {joins})") };
                    alerts.push(incident.alert(at, Status::Updated, message));
                    self.counts.updated += 1;
                }
                serial
            }
            None => match self.open(at, identity.clone(), finding, causes, alerts) {
                Some(serial) => serial,
                None => return,
            },
        };
        self.by_identity.insert(identity, serial);
        self.by_subject.extend(subjects.into_iter().map(|subject| (subject, serial)));
    }

    fn open(
        &mut self,
        at: Timestamp,
        identity: Identity,
        finding: Finding,
        causes: Vec<Link>,
        alerts: &mut Vec<Alert>,
    ) -> Option<u64> {
        if self.open.len() >= MAX_OPEN {
            self.counts.crowded_out += 1;
            let oldest = self.open.iter().find(|(_, incident)| incident.by_silence()).map(|(serial, _)| *serial)?;
            self.remove(oldest);
        }
        let (chain, member) = (of_finding(&finding), Member::new(at, identity, &finding));
        let mut persistence = Persistence::default();
        persistence.take(at, &finding);
        let mut evidence = finding.evidence;
        evidence.entry("source").or_insert_with(|| json!(finding.source));
        let mut incident = Incident {
            id: self.id(finding.metric, &finding.labels, finding.since),
            metric: finding.metric.into(),
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
            members: vec![member],
            speaker: 0,
            chain: Vec::new(),
            evidence,
            messages: 0,
            last_message: at,
            untold: 0,
            persistence,
        };
        incident.link(causes.into_iter().chain([chain]));
        let message = incident.message.clone();
        alerts.push(incident.alert(at, Status::Firing, message));
        self.counts.firing += 1;
        let serial = self.next_serial;
        self.open.insert(serial, incident);
        self.next_serial += 1;
        Some(serial)
    }

    fn remove(&mut self, serial: u64) -> Option<Incident> {
        let incident = self.open.remove(&serial)?;
        for member in &incident.members {
            self.by_identity.remove(&member.identity);
            for subject in subjects(&member.identity.1) {
                if self.by_subject.get(&subject) == Some(&serial) {
                    self.by_subject.remove(&subject);
                }
            }
        }
        Some(incident)
    }

    fn close(&mut self, at: Timestamp, serial: u64, message: String, alerts: &mut Vec<Alert>) {
        let Some(mut incident) = self.remove(serial) else { return };
        alerts.push(incident.alert(at, Status::Resolved, message));
        self.counts.resolved += 1;
    }

    /// Ends the incidents whose events have stopped, and makes worse what goes on.
    pub(super) fn tick(&mut self, at: Timestamp, alerts: &mut Vec<Alert>) {
        let mut over = Vec::new();
        let last_tick = self.last_tick.replace(at);
        for (serial, incident) in &mut self.open {
            // A clock that was set back must not keep an incident open until it has caught up.
            incident.last_seen = incident.last_seen.min(at);
            incident.last_message = incident.last_message.min(at);
            let mut by_silence = false;
            for member in &mut incident.members {
                member.last_seen = member.last_seen.min(at);
                by_silence |= member.by_silence;
            }
            if by_silence && incident.is_over(at, self.dedup_window) {
                over.push(*serial);
            } else if let Some(message) = incident.escalate(at, last_tick, &self.escalation, self.min_interval) {
                alerts.push(incident.alert(at, Status::Updated, message));
                self.counts.updated += 1;
            }
        }
        for serial in over {
            let Some(incident) = self.open.get(&serial) else { continue };
            let mut message = incident.message.clone();
            if incident.members.get(incident.speaker).is_some_and(|speaker| speaker.is_restored) {
                message.push_str(": not seen since the agent started again");
            } else if incident.by_silence() {
                let _ = write!(message, ": not seen again for {}", text::duration(self.dedup_window));
                if incident.count > 1 {
                    let span = text::duration(incident.last_seen.since(incident.started));
                    // Writing to a string cannot fail.
                    let _ = write!(message, ", after {} within {span}", text::counted(incident.count, "event"));
                }
            }
            self.close(at, serial, message, alerts);
        }
    }

    fn id(&mut self, metric: &str, labels: &Labels, started: Timestamp) -> String {
        let id = naming::id(&self.hostname, metric, labels, started, |id| self.recent_ids.contains(&id));
        self.remember_id(id);
        format!("{id:016x}")
    }

    fn remember_id(&mut self, id: u64) {
        if self.recent_ids.len() >= RECENT_IDS {
            self.recent_ids.pop_front();
        }
        self.recent_ids.push_back(id);
    }
}
