//! What waits for one channel: bounded, in order, and deliberate about what it gives up.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Alert, Severity};

/// Messages that a channel may fall behind.
pub(super) const CAPACITY: usize = 256;

/// Alerts in order of arrival.
#[derive(Default)]
pub(super) struct Queue(VecDeque<Arc<Alert>>);

impl Queue {
    /// Appends an alert and returns the one that had to go for it: the oldest milder than Critical, which may be the new one
    /// itself, or else the oldest.
    pub(super) fn push(&mut self, alert: Arc<Alert>) -> Option<Arc<Alert>> {
        self.0.push_back(alert);
        if self.0.len() <= CAPACITY {
            return None;
        }
        let mild = self.0.iter().position(|queued| queued.severity < Severity::Critical);
        self.0.remove(mild.unwrap_or(0))
    }

    pub(super) fn pop(&mut self) -> Option<Arc<Alert>> {
        self.0.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Empties it and returns how many were left.
    pub(super) fn clear(&mut self) -> usize {
        let left = self.0.len();
        self.0.clear();
        left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Evidence, Labels, Status, Timestamp};

    fn alert(severity: Severity, index: usize) -> Arc<Alert> {
        Arc::new(Alert {
            id: String::new(),
            delivery: index.to_string(),
            at: Timestamp::default(),
            status: Status::Firing,
            severity,
            metric: "m".into(),
            value: 0.0,
            threshold: None,
            message: String::new(),
            labels: Labels::new(),
            duration: Duration::ZERO,
            count: 1,
            evidence: Evidence::new(),
        })
    }

    fn dropped(queue: &mut Queue, severity: Severity, index: usize) -> Option<String> {
        queue.push(alert(severity, index)).map(|alert| alert.delivery.clone())
    }

    #[test]
    fn the_oldest_mild_alert_gives_way_first() {
        let mut queue = Queue::default();
        for index in 0..CAPACITY {
            let severity = if index == 3 || index == 7 { Severity::Warn } else { Severity::Critical };
            assert_eq!(dropped(&mut queue, severity, index), None);
        }
        assert_eq!(dropped(&mut queue, Severity::Emergency, 1000).as_deref(), Some("3"));
        assert_eq!(dropped(&mut queue, Severity::Info, 1001).as_deref(), Some("7"));
        assert_eq!(dropped(&mut queue, Severity::Info, 1002).as_deref(), Some("1001"));
        assert_eq!(dropped(&mut queue, Severity::Critical, 1003).as_deref(), Some("1002"));
        assert_eq!(dropped(&mut queue, Severity::Critical, 1004).as_deref(), Some("0"));
        assert_eq!(queue.pop().map(|alert| alert.delivery.clone()).as_deref(), Some("1"));
        assert_eq!(queue.clear(), CAPACITY - 1);
    }
}
