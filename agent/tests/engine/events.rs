//! Kernel events: folding, bursts, life cycle, bounds.

use std::time::Duration;

use serde_json::json;
use sysops_agent::config::Config;
use sysops_agent::engine::MAX_OPEN;
use sysops_agent::model::Severity;
use sysops_agent::model::Status::{Firing, Resolved, Updated};

use super::{Host, event, is};

#[test]
fn an_event_is_told_at_once_and_over_when_it_stays_away() {
    let mut host = Host::new();
    let mut oom = event("kernel_oom_kill", &[("comm", "java"), ("pid", "42")], "OOM killer killed java (pid 42)");
    oom.evidence.insert("anon_rss_kb".into(), json!(1024));
    host.event(oom);
    let fired = host.only();
    assert_eq!(
        (fired.status, fired.severity, fired.message.as_str()),
        (Firing, Severity::Critical, "OOM killer killed java (pid 42)")
    );
    assert_eq!((&fired.evidence["anon_rss_kb"], &fired.evidence["source"]), (&json!(1024), &json!("probe")));
    assert_eq!((fired.threshold, fired.count, fired.duration), (None, 1, Duration::ZERO));
    host.wait(599);
    assert_eq!(host.told(), []);
    host.wait(1);
    let over = host.only();
    assert_eq!(over.message, "OOM killer killed java (pid 42): not seen again for 10 min");
    assert_eq!((over.id, over.status, over.delivery), (fired.id.clone(), Resolved, format!("{}-2", fired.id)));
    host.wait(10_000);
    assert_eq!(host.told(), []);
}

#[test]
fn repetitions_are_folded() {
    let mut host = Host::new();
    let slow = || event("kernel_block_io_slow", &[("device", "sda"), ("operation", "read")], "Slow read on sda: 250 ms");
    for _ in 0..700 {
        host.event(slow());
        host.wait(1);
    }
    assert_eq!(
        host.told(),
        [
            is(Firing, "warn Slow read on sda: 250 ms"),
            is(Updated, "warn Slow read on sda: 250 ms (seen 300 times in the last 5 minutes)"),
            is(Updated, "warn Slow read on sda: 250 ms (seen 300 times in the last 5 minutes)"),
        ]
    );
    host.wait(600);
    assert_eq!(
        host.told(),
        [is(Resolved, "warn Slow read on sda: 250 ms: not seen again for 10 min, after 700 events within 11 min 39 s")]
    );
}

#[test]
fn another_subject_is_another_incident() {
    let mut host = Host::new();
    for pid in ["1", "2", "1"] {
        host.event(event("kernel_fd_exhausted", &[("pid", pid)], &format!("pid {pid} was refused a descriptor")));
    }
    let ids: Vec<_> = host.alerts.iter().map(|alert| (alert.id.clone(), alert.severity)).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0].0, ids[1].0);
    assert_eq!(ids[0].1, Severity::Critical);
    assert_eq!(host.engine.open_incidents().map(|incident| incident.count).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn ids_tell_hosts_and_starts_apart() {
    let id = |hostname: &str, start: i64| {
        let mut host = Host::new();
        host.engine = sysops_agent::engine::Engine::new(&Config::default(), hostname);
        host.now = start;
        host.event(event("kernel_oom_kill", &[("pid", "1")], "x"));
        host.only().id
    };
    assert_eq!(id("a", 1), id("a", 1));
    assert_ne!(id("a", 1), id("b", 1));
    assert_ne!(id("a", 1), id("a", 2));
}

#[test]
fn retransmits_are_told_in_bursts() {
    let mut host = Host::new();
    let retransmit = |count| {
        let mut event = event("kernel_tcp_retransmit", &[("peer", "10.0.0.2:443")], "Segments to 10.0.0.2:443 were sent again");
        event.count = count;
        event
    };
    for _ in 0..4 {
        host.event(retransmit(1));
        host.wait(3);
    }
    assert_eq!(host.told(), []);
    host.event(retransmit(2));
    let alert = host.only();
    assert_eq!(alert.message, "Segments to 10.0.0.2:443 were sent again; 5 times within 10 s, threshold 5");
    assert_eq!((alert.value, alert.threshold, alert.count, alert.severity), (5.0, Some(5.0), 5, Severity::Warn));
}

#[test]
fn open_incidents_are_bounded() {
    let mut host = Host::new();
    for pid in 0..=MAX_OPEN {
        host.event(event("kernel_oom_kill", &[("pid", &pid.to_string())], "x"));
    }
    assert_eq!(host.engine.open_incidents().count(), MAX_OPEN);
    assert_eq!(host.engine.stats().incidents_crowded_out, 1);
    assert_eq!(host.engine.open_incidents().next().and_then(|incident| incident.labels.get("pid")), Some("1"));
}

#[test]
fn what_is_no_number_never_reaches_an_alert() {
    let mut host = Host::new();
    let mut bad = event("kernel_hung_task", &[("pid", "1")], "x");
    (bad.value, bad.threshold, bad.count) = (f64::NAN, Some(f64::INFINITY), 0);
    host.event(bad);
    let alert = host.only();
    assert_eq!((alert.value, alert.threshold, alert.count), (0.0, None, 1));
}
