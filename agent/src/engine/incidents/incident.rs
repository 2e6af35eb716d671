//! One incident: the findings that it is made of, which of them speaks for it, and what it says.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::escalation::Persistence;
use crate::engine::analyzers::{Finding, Phase};
use crate::engine::chains::{Identity, Link};
use crate::engine::text;
use crate::model::{Alert, Evidence, Labels, Severity, Status, Timestamp};

/// Links of a chain that are kept: the first and the latest.
const MAX_LINKS: usize = 16;

/// A finding that an incident is made of.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) identity: Identity,
    /// Whether silence ends it; otherwise an analyzer does.
    pub(super) by_silence: bool,
    /// Whether an earlier run of the agent told of it, and this one has heard nothing of it.
    pub(super) is_restored: bool,
    pub(super) last_seen: Timestamp,
    /// Whether an analyzer has ended it.
    pub(super) is_over: bool,
    /// Whether the latest sample of a condition passed its limit.
    pub(super) passes: bool,
    /// The worst so far.
    pub(super) severity: Severity,
}

impl Member {
    pub(super) fn new(at: Timestamp, identity: Identity, finding: &Finding) -> Self {
        let by_silence = finding.phase == Phase::Occurred;
        Self { identity, by_silence, is_restored: false, last_seen: at, is_over: false, passes: true, severity: finding.severity }
    }

    /// Takes note of a finding about it.
    pub(super) fn take(&mut self, at: Timestamp, finding: &Finding) {
        if std::mem::take(&mut self.is_restored) {
            self.by_silence = finding.phase == Phase::Occurred;
        }
        self.last_seen = at;
        self.is_over = finding.phase == Phase::Cleared;
        self.passes = true;
        self.severity = self.severity.max(finding.severity);
    }
}

/// Something that began and is not over.
#[derive(Clone, Debug)]
pub struct Incident {
    /// See [`Alert::id`].
    pub id: String,
    /// See [`Alert::metric`].
    pub metric: Cow<'static, str>,
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
    pub(super) disagreements: Vec<String>,
    /// What it is made of; the first of them is what it began with.
    pub(super) members: Vec<Member>,
    /// The place of the member that speaks for it.
    pub(super) speaker: usize,
    /// Causes, findings and effects, in the order of time.
    pub(super) chain: Vec<Link>,
    pub(super) evidence: Evidence,
    /// Messages sent.
    pub(super) messages: u64,
    pub(super) last_message: Timestamp,
    /// Part of `count` that no message has told of.
    pub(super) untold: u64,
    pub(super) persistence: Persistence,
}

impl Incident {
    pub(super) fn alert(&mut self, at: Timestamp, status: Status, message: String) -> Alert {
        self.messages = self.messages.saturating_add(1);
        self.last_message = at;
        self.untold = 0;
        let mut evidence = self.evidence.clone();
        if self.chain.len() > 1 {
            evidence.insert("chain".into(), self.chain.iter().map(Link::value).collect());
        }
        // A condition of samples has no other witness, and those of an earlier run are in the evidence.
        if self.by_silence() && !self.witnesses.is_empty() {
            evidence.insert("witnesses".into(), json!(self.witnesses));
        }
        if !self.disagreements.is_empty() {
            evidence.insert("disagreement".into(), json!(self.disagreements.join("; ")));
        }
        if let Some(escalated) = &self.persistence.told {
            evidence.insert("escalated".into(), escalated.clone());
        }
        Alert {
            id: self.id.clone(),
            delivery: format!("{}-{}", self.id, self.messages),
            at,
            status,
            severity: self.severity,
            metric: self.metric.clone(),
            value: self.value,
            threshold: self.threshold,
            message,
            labels: self.labels.clone(),
            duration: at.since(self.started),
            count: self.count,
            evidence,
        }
    }

    /// Whether what speaks for it ends by silence.
    pub(super) fn by_silence(&self) -> bool {
        self.members.get(self.speaker).is_some_and(|member| member.by_silence)
    }

    /// Whether all that it is made of is over.
    pub(super) fn is_over(&self, at: Timestamp, silence: Duration) -> bool {
        self.members.iter().all(|member| member.is_over || member.by_silence && at.since(member.last_seen) >= silence)
    }

    pub(super) fn member(&mut self, identity: &Identity) -> Option<(usize, &mut Member)> {
        self.members.iter_mut().enumerate().find(|(_, member)| member.identity == *identity)
    }

    /// Adds links; of too many the first and the latest stay.
    pub(super) fn link(&mut self, links: impl IntoIterator<Item = Link>) {
        for link in links {
            if !self.chain.iter().any(|known| known.kind == link.kind && known.text == link.text) {
                let place = self.chain.partition_point(|known| known.at <= link.at);
                self.chain.insert(place, link);
            }
        }
        while self.chain.len() > MAX_LINKS {
            self.chain.remove(MAX_LINKS / 2);
        }
    }

    /// Takes a finding that has not been part of it: which of its messages is due, if any.
    pub(super) fn join(
        &mut self,
        at: Timestamp,
        identity: Identity,
        finding: Finding,
        causes: Vec<Link>,
        min_interval: Duration,
    ) -> bool {
        let is_new_kind = self.members.iter().all(|member| member.identity.0 != finding.metric);
        let (worse, as_bad) = (finding.severity > self.severity, finding.severity >= self.severity);
        self.link(causes.into_iter().chain([of_finding(&finding)]));
        let member = Member::new(at, identity, &finding);
        // What goes on is told again and again of events alone: a condition that is no worse leaves the word to them.
        let takes_over = worse || as_bad && (member.by_silence || !self.by_silence());
        self.members.push(member);
        if takes_over {
            self.speaker = self.members.len() - 1;
            (self.metric, self.labels) = (finding.metric.into(), finding.labels.clone());
            // Nobody has confirmed or denied this one.
            self.witnesses.clear();
            self.disagreements.clear();
            self.take(at, finding);
        } else {
            self.count(at, &finding);
        }
        worse || is_new_kind || at.since(self.last_message) >= min_interval
    }

    pub(super) fn count(&mut self, at: Timestamp, finding: &Finding) {
        self.last_seen = at;
        self.count = self.count.saturating_add(finding.count);
        self.untold = self.untold.saturating_add(finding.count);
        self.severity = self.severity.max(finding.severity);
        self.persistence.take(at, finding);
    }

    /// Takes what a later finding says.
    pub(super) fn take(&mut self, at: Timestamp, finding: Finding) {
        self.count(at, &finding);
        self.witnesses.insert(finding.source);
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

    /// The latest finding, and where nobody has told of all, how often it came since the last message.
    pub(super) fn news(&self, at: Timestamp) -> String {
        if !self.by_silence() || self.untold == 0 {
            return self.message.clone();
        }
        let minutes = at.since(self.last_message).as_secs().div_ceil(60).max(1);
        let times = text::counted(self.untold, "time");
        format!("{} (seen {times} in the last {})", self.message, text::counted(minutes, "minute"))
    }
}

/// A finding as a link of the chain that it is in.
pub(super) fn of_finding(finding: &Finding) -> Link {
    Link { at: finding.since, kind: finding.metric, text: finding.message.clone(), evidence: Evidence::new() }
}
