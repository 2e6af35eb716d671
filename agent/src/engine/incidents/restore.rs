//! Incidents that an earlier run of the agent told of and did not see end.

use std::collections::BTreeSet;

use super::escalation::{Persistence, counts};
use super::incident::{Incident, Member};
use super::naming::subjects;
use super::{Incidents, MAX_OPEN};
use crate::model::{Alert, Severity, Status, Timestamp};

impl Incidents {
    /// Opens the incident again that this alert was the latest about.
    pub(in crate::engine) fn restore(&mut self, at: Timestamp, alert: &Alert) {
        let identity = (alert.metric.clone(), alert.labels.clone());
        let is_open = self.by_identity.contains_key(&identity) || self.open.values().any(|incident| incident.id == alert.id);
        if alert.status == Status::Resolved || is_open {
            return;
        }
        if self.open.len() >= MAX_OPEN {
            self.counts.crowded_out += 1;
            return;
        }
        if let Ok(id) = u64::from_str_radix(&alert.id, 16) {
            self.remember_id(id);
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.open.insert(serial, Incident::restored(at, alert));
        self.by_subject.extend(subjects(&alert.labels).map(|subject| (subject, serial)));
        self.by_identity.insert(identity, serial);
    }
}

impl Incident {
    fn restored(at: Timestamp, alert: &Alert) -> Self {
        let is_critical = alert.severity >= Severity::Critical && counts(&alert.labels, alert.severity);
        let mut evidence = alert.evidence.clone();
        let told = evidence.remove("escalated");
        let number = alert.delivery.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        Self {
            id: alert.id.clone(),
            metric: alert.metric.clone(),
            labels: alert.labels.clone(),
            severity: alert.severity,
            value: alert.value,
            threshold: alert.threshold,
            message: alert.message.clone(),
            started: alert.at.minus(alert.duration),
            last_seen: at,
            count: alert.count,
            witnesses: BTreeSet::new(),
            disagreements: Vec::new(),
            members: vec![Member {
                identity: (alert.metric.clone(), alert.labels.clone()),
                by_silence: true,
                is_restored: true,
                last_seen: at,
                is_over: false,
                passes: false,
                severity: alert.severity,
            }],
            speaker: 0,
            chain: Vec::new(),
            evidence,
            messages: number.unwrap_or(alert.count.max(1)),
            last_message: alert.at,
            untold: 0,
            persistence: Persistence::restored(is_critical.then_some(at), told),
        }
    }
}
