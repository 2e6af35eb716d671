//! Bursts of TCP segments that are sent again, as far as `/proc/net/snmp` shows them: in sum, for one network namespace.
//!
//! In a burst the table of connections is looked through once for those that wait at this moment for an answer to what they
//! have sent again; a connection that recovered before the run is not among them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{RETRANSMIT_RATIO, RETRANSMITS, SEGMENTS_OUT};
use crate::collectors::Batch;
use crate::host::{Host, Retransmitting};
use crate::model::{Evidence, KernelEvent, Labels, Metric, SeriesKey};

/// The time within which segments make a burst.
const WINDOW: Duration = Duration::from_secs(10);
/// Segments sent from which on their share means something.
const LEAST_SEGMENTS: f64 = 100.0;
/// How long looking through connections and for their owners may take.
const DEADLINE: Duration = Duration::from_millis(250);
/// Connections that are told of one by one; of more only some are named.
const MOST_CONNECTIONS: usize = 8;

/// The two totals over time.
pub struct Retransmits {
    host: Host,
    burst: f64,
    /// Segments sent again and sent, oldest first: the first is the last one that is older than the window.
    totals: VecDeque<(Instant, f64, f64)>,
    /// The same, at the last run.
    last: Option<(f64, f64)>,
    ratio: SeriesKey,
}

impl Retransmits {
    /// Nothing seen yet; `burst` segments within the window are worth an event.
    pub fn new(host: &Host, burst: u32) -> Self {
        Self {
            host: host.clone(),
            burst: f64::from(burst.max(1)),
            totals: VecDeque::new(),
            last: None,
            ratio: SeriesKey::new(&RETRANSMIT_RATIO, Labels::new()),
        }
    }

    /// Looks at what the present run has sampled.
    pub fn judge(&mut self, batch: &mut Batch) {
        let value = |metric: &'static Metric| {
            batch.samples.iter().find(|sample| sample.series.metric() == metric).map(|sample| sample.value)
        };
        let (Some(again), Some(sent)) = (value(&RETRANSMITS), value(&SEGMENTS_OUT)) else { return };
        if let Some((again_before, sent_before)) = self.last.replace((again, sent)) {
            let (again, sent) = (again - again_before, sent - sent_before);
            if again >= 0.0 && sent >= LEAST_SEGMENTS {
                batch.push(&self.ratio, again / sent);
            }
        }
        if let Some((seconds, again, sent)) = self.growth(batch.at(), again, sent) {
            batch.events.extend(self.events(seconds, again, sent));
        }
    }

    /// What was sent again, and sent, in how many seconds, where that is a burst.
    fn growth(&mut self, at: Instant, again: f64, sent: f64) -> Option<(f64, f64, f64)> {
        // Counters that fall are those of another namespace or boot.
        if self.totals.back().is_some_and(|(_, last_again, last_sent)| again < *last_again || sent < *last_sent) {
            self.totals.clear();
        }
        self.totals.push_back((at, again, sent));
        while self.totals.get(1).is_some_and(|(time, ..)| at.saturating_duration_since(*time) >= WINDOW) {
            self.totals.pop_front();
        }
        let (time, again_before, sent_before) = *self.totals.front()?;
        let seconds = at.saturating_duration_since(time).as_secs_f64();
        let (again, sent) = (again - again_before, sent - sent_before);
        // Runs may be further apart than the window.
        if again * (WINDOW.as_secs_f64() / seconds).min(1.0) < self.burst {
            return None;
        }
        // What has been told of is no part of the next burst.
        self.totals.drain(..self.totals.len().saturating_sub(1));
        Some((seconds, again, sent))
    }

    fn events(&self, seconds: f64, again: f64, sent: f64) -> Vec<KernelEvent> {
        let mut evidence = Evidence::new();
        evidence.insert("source".into(), "/proc/net/snmp RetransSegs, /proc/net/tcp".into());
        evidence.insert("rose_by".into(), again.into());
        evidence.insert("seconds".into(), seconds.into());
        let percent = if sent > 0.0 { again / sent * 100.0 } else { 100.0 };
        evidence.insert("percent_of_sent".into(), percent.into());
        let share = format!("{again} TCP segments were sent again in {seconds:.0} s, {percent:.1}% of those sent");
        let host = self.host.clone();
        let looked =
            self.host.isolate().call("the table of TCP connections", DEADLINE, move || host.retransmitting(MOST_CONNECTIONS));
        let (connections, count) = looked.unwrap_or_else(|stuck| {
            evidence.insert("enrichment".into(), stuck.to_string().into());
            (Vec::new(), 0)
        });
        let event = |labels, value, message, evidence| KernelEvent {
            metric: "kernel_tcp_retransmit",
            labels,
            value,
            threshold: Some(self.burst),
            count: 1,
            message,
            source: "poll",
            evidence,
        };
        if connections.is_empty() || count > connections.len() {
            if count > 0 {
                evidence.insert("connections".into(), count.into());
                evidence.insert("some_of_them".into(), connections.iter().map(describe).collect::<Value>());
            }
            return vec![event(Labels::new(), again, share, evidence)];
        }
        let each = connections.into_iter().map(|connection| {
            let mut evidence = evidence.clone();
            evidence.insert("timeouts_in_a_row".into(), connection.timeouts.into());
            evidence.insert("family".into(), if connection.local.is_ipv4() { "ipv4" } else { "ipv6" }.into());
            let (local, peer) = (connection.local.to_string(), connection.remote.to_string());
            let mut labels = Labels::new().with("local", &local).with("peer", &peer);
            let mut of = String::new();
            if let Some(owner) = connection.owner {
                of = format!(" of {} (pid {})", owner.comm, owner.pid);
                labels.set("pid", owner.pid.to_string());
                labels.set("comm", owner.comm);
                evidence.insert("socket_inode".into(), owner.inode.into());
                evidence.extend(owner.cgroup.map(|cgroup| ("cgroup".to_owned(), cgroup.into())));
            }
            let message = format!("TCP segments from {local} to {peer}{of} are sent again; {share}");
            event(labels, again, message, evidence)
        });
        each.collect()
    }
}

fn describe(connection: &Retransmitting) -> Value {
    let Retransmitting { local, remote, timeouts, owner } = connection;
    let owner = owner.as_ref();
    json!({
        "local": local.to_string(),
        "peer": remote.to_string(),
        "timeouts_in_a_row": timeouts,
        "pid": owner.map(|owner| owner.pid),
        "comm": owner.map(|owner| &owner.comm),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostRoots;

    /// Totals at these seconds; when a burst was seen, and of how many segments.
    fn bursts(burst: u32, totals: &[(u64, f64)]) -> Vec<(u64, f64)> {
        let host = Host::new(HostRoots { procfs: "/nonexistent".into(), ..HostRoots::default() });
        let (mut retransmits, start) = (Retransmits::new(&host, burst), Instant::now());
        let each = totals.iter().filter_map(|&(secs, again)| {
            let growth = retransmits.growth(start + Duration::from_secs(secs), again, again * 100.0);
            growth.map(|(_, again, _)| (secs, again))
        });
        each.collect()
    }

    #[test]
    fn a_burst_is_what_came_within_the_window_however_often_it_is_looked_at() {
        assert_eq!(bursts(5, &[(0, 70.0), (10, 74.0), (20, 79.0), (30, 79.0)]), [(20, 5.0)]);
        assert_eq!(bursts(5, &[(0, 0.0), (1, 2.0), (5, 4.0), (9, 5.0), (10, 6.0), (11, 9.0), (13, 10.0)]), [(9, 5.0), (13, 5.0)]);
        assert_eq!(bursts(5, &[(0, 0.0), (1, 4.0), (15, 8.0)]), [], "neither four nor four within the window");
        assert_eq!(bursts(5, &[(0, 0.0), (60, 29.0), (120, 60.0)]), [(120, 31.0)], "by rate where runs are rare");
        assert_eq!(bursts(5, &[(0, 90.0), (10, 6.0), (20, 12.0)]), [(20, 6.0)], "a reset is no burst");
    }

    #[test]
    fn without_a_connection_the_event_has_no_labels() {
        let host = Host::new(HostRoots { procfs: "/nonexistent".into(), ..HostRoots::default() });
        let events = Retransmits::new(&host, 5).events(10.0, 7.0, 350.0);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].message, "7 TCP segments were sent again in 10 s, 2.0% of those sent");
        assert_eq!((events[0].labels.to_string(), events[0].evidence["rose_by"].as_f64()), (String::new(), Some(7.0)));
    }
}
