//! What goes on gets worse.
//!
//! An incident of severity Warn counts one for its first message, and one for each further `min_interval` in which it went on: a
//! condition whose samples still pass their limit, or events no further apart than that. After `warn_to_critical_after` of them in a
//! row it is Critical; a gap begins counting anew. One that is Critical and still goes on `critical_to_emergency_after` later is an Emergency.
//! Neither Info escalates, nor what an analyzer of its own name says: trend, leak, zscore and ema speak of the future or the unusual,
//! which do not get worse by lasting.

use std::time::Duration;

use serde_json::{Value, json};

use super::incident::{Incident, Member};
use crate::config::Escalation;
use crate::engine::analyzers::{Finding, Phase};
use crate::engine::text;
use crate::model::{Labels, Severity, Timestamp};

/// Ticks further apart than this mean that the clock was set or the machine slept: nobody knows whether it went on.
const LONGEST_TICK: Duration = Duration::from_secs(30);

/// How long something has gone on.
#[derive(Clone, Debug, Default)]
pub(super) struct Persistence {
    /// Since when without a gap.
    since: Option<Timestamp>,
    critical_since: Option<Timestamp>,
    /// What was last made worse, as evidence.
    pub(super) told: Option<Value>,
}

/// Whether lasting makes it worse.
pub(super) fn counts(labels: &Labels, severity: Severity) -> bool {
    severity >= Severity::Warn && labels.get("analyzer").is_none()
}

impl Persistence {
    /// Of an incident that was told of before: it has to go on from now, and what of it was made worse was told.
    pub(super) fn restored(critical_since: Option<Timestamp>, told: Option<Value>) -> Self {
        Self { since: None, critical_since, told }
    }

    /// Takes note of a finding that is part of the incident.
    pub(super) fn take(&mut self, at: Timestamp, finding: &Finding) {
        let goes_on = matches!(finding.phase, Phase::Occurred | Phase::Holds | Phase::Changed | Phase::Resumed);
        if goes_on && counts(&finding.labels, finding.severity) {
            self.since.get_or_insert(at);
            if finding.severity >= Severity::Critical {
                self.critical_since.get_or_insert(at);
            }
        }
    }

    /// Begins counting anew where the clock jumped; `last_tick` is the tick before this one.
    fn follow_clock(&mut self, at: Timestamp, last_tick: Option<Timestamp>) {
        if last_tick.is_some_and(|last| at < last || at.since(last) > LONGEST_TICK) {
            for since in [&mut self.since, &mut self.critical_since] {
                *since = since.map(|_| at);
            }
        }
    }
}

impl Member {
    fn goes_on(&self, at: Timestamp, min_interval: Duration) -> bool {
        let goes_on = if self.by_silence { at.since(self.last_seen) <= min_interval } else { self.passes && !self.is_over };
        goes_on && !self.is_restored && counts(&self.identity.1, self.severity)
    }
}

impl Incident {
    /// Makes it worse where that is due, and says so.
    pub(super) fn escalate(
        &mut self,
        at: Timestamp,
        last_tick: Option<Timestamp>,
        rules: &Escalation,
        min_interval: Duration,
    ) -> Option<String> {
        self.persistence.follow_clock(at, last_tick);
        if !self.members.iter().any(|member| member.goes_on(at, min_interval)) {
            self.persistence.since = None;
            return None;
        }
        let lasted = at.since(*self.persistence.since.get_or_insert(at));
        let further = rules.warn_to_critical_after.saturating_sub(1);
        if lasted >= min_interval.saturating_mul(further) {
            self.persistence.critical_since.get_or_insert(at);
        }
        let unresolved = self.persistence.critical_since.map(|since| at.since(since));
        let (to, after, why) = match (self.severity, unresolved) {
            (Severity::Warn, Some(_)) => (Severity::Critical, lasted, "it has gone on"),
            (Severity::Critical, Some(unresolved)) if unresolved >= rules.critical_to_emergency_after => {
                (Severity::Emergency, unresolved, "it has not been resolved")
            }
            _ => return None,
        };
        if !rules.enabled {
            return None;
        }
        let from = std::mem::replace(&mut self.severity, to);
        self.persistence.told = Some(json!({ "from": from, "to": to, "after_secs": after.as_secs() }));
        Some(format!("{}; escalated from {from} to {to}: {why} for {}", self.news(at), text::duration(after)))
    }
}
