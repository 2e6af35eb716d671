//! Incidents that outlive the agent: they go on under their id, or are told to be over.

use sysops_agent::config::Config;
use sysops_agent::engine::Engine;
use sysops_agent::model::Status::{Firing, Resolved, Updated};
use sysops_agent::model::{Alert, KernelEvent, SeriesKey, Severity};

use super::{CPU, Host, event, series};

fn cpu() -> SeriesKey {
    series(&CPU, &[("core", "all")])
}

fn hung() -> KernelEvent {
    event("kernel_hung_task", &[("comm", "cat"), ("pid", "12")], "cat (pid 12) blocked for more than 120 s")
}

/// Another run of the agent, `secs` later, which is handed the last alert of this one as it was written to disk.
fn restarted(mut host: Host, secs: i64) -> (Host, Alert) {
    let last = host.alerts.last().unwrap_or_else(|| panic!("nothing was told"));
    let last: Alert =
        serde_json::from_str(&serde_json::to_string(last).unwrap_or_default()).unwrap_or_else(|error| panic!("{error}"));
    let alerts = std::mem::take(&mut host.alerts);
    host.engine = Engine::new(&Config::default(), "web-01");
    host.now += secs;
    host.engine.restore(Host::time(host.now), &last);
    host.alerts = alerts;
    (host, last)
}

/// All alerts are about one incident, and no two of them have the same idempotency key.
fn assert_one_incident(alerts: &[Alert]) {
    assert!(alerts.iter().all(|alert| alert.id == alerts[0].id), "{alerts:#?}");
    let mut deliveries: Vec<_> = alerts.iter().map(|alert| &alert.delivery).collect();
    deliveries.sort();
    deliveries.dedup();
    assert_eq!(deliveries.len(), alerts.len(), "{alerts:#?}");
}

#[test]
fn a_condition_goes_on_and_ends_as_usual() {
    let mut host = Host::new();
    host.samples(&cpu(), 10, &[92.0; 10]);
    let (mut host, last) = restarted(host, 30);
    let open = host.engine.open_incidents().next().unwrap();
    assert_eq!(
        (&*open.id, &*open.metric, open.severity, open.started),
        (&*last.id, "cpu_usage_percent", Severity::Warn, Host::time(0))
    );
    // It still holds, which everybody knows, and becomes critical for a reason of its own.
    host.samples(&cpu(), 10, &[92.0; 30]);
    assert_eq!(host.alerts.len(), 1);
    host.samples(&cpu(), 10, &[97.0; 10]);
    host.samples(&cpu(), 10, &[50.0; 10]);
    let told: Vec<_> = host.alerts.iter().map(|alert| (alert.status, alert.severity)).collect();
    assert_eq!(told, [(Firing, Severity::Warn), (Updated, Severity::Critical), (Resolved, Severity::Critical)]);
    assert_one_incident(&host.alerts);
    let end = host.alerts[2].clone();
    assert_eq!(end.message, "CPU usage back to 50.0% (threshold 90%)");
    assert_eq!(end.duration, end.at.since(Host::time(0)), "since it began in the run before");
    assert_eq!(host.engine.open_incidents().count(), 0);
    // What begins now is another one.
    host.samples(&cpu(), 10, &[92.0; 20]);
    assert!(host.alerts[3].id != end.id && host.alerts[3].status == Firing);
}

#[test]
fn a_condition_of_which_nothing_is_heard_is_over() {
    let mut host = Host::new();
    host.samples(&cpu(), 10, &[92.0; 10]);
    let (mut host, _) = restarted(host, 30);
    let began = host.now;
    host.samples(&cpu(), 10, &[50.0; 59]);
    assert_eq!(host.alerts.len(), 1, "{} s after the start", host.now - began);
    host.samples(&cpu(), 10, &[50.0; 2]);
    let end = host.alerts.last().unwrap();
    assert_eq!((end.status, end.at), (Resolved, Host::time(began + 600)));
    assert_eq!(end.message, "CPU usage 92.0% exceeds threshold 90% for 1 min: not seen since the agent started again");
    assert_one_incident(&host.alerts);
    assert_eq!(host.engine.stats().alerts_firing, 0);
}

#[test]
fn events_go_on_and_stop_as_usual() {
    let mut host = Host::new();
    host.wait(60);
    for _ in 0..4 {
        host.event(hung());
        host.wait(200);
    }
    assert_eq!(host.alerts.len(), 2);
    let (mut host, last) = restarted(host, 30);
    host.wait(200);
    host.event(hung());
    let update = host.alerts.last().unwrap().clone();
    assert_eq!((update.status, update.count), (Updated, last.count + 1));
    assert!(update.message.contains("seen 1 time in the last "), "{}", update.message);
    host.wait(700);
    let end = host.alerts.last().unwrap();
    assert_eq!(end.status, Resolved);
    assert!(end.message.contains(": not seen again for 10 min, after 4 events"), "{}", end.message);
    assert_one_incident(&host.alerts);
}

#[test]
fn what_joined_and_what_was_made_worse_is_known() {
    let mut host = Host::new();
    host.samples(&cpu(), 10, &[92.0; 130]);
    let (mut host, last) = restarted(host, 30);
    assert_eq!(last.severity, Severity::Critical);
    host.samples(&cpu(), 10, &[92.0; 190]);
    let worse = host.alerts.last().unwrap().clone();
    assert_eq!((worse.severity, &worse.evidence["escalated"]["from"]), (Severity::Emergency, &"critical".into()));
    host.samples(&cpu(), 10, &[50.0; 10]);
    assert_eq!(host.alerts.last().unwrap().evidence["escalated"]["to"], "emergency");
    assert_one_incident(&host.alerts);
}

#[test]
fn an_incident_that_is_unheard_of_does_not_get_worse() {
    let mut host = Host::new();
    host.wait(60);
    host.event(event("kernel_oom_kill", &[("comm", "x"), ("pid", "1")], "killed 1"));
    let (mut host, _) = restarted(host, 30);
    host.wait(4000);
    let told: Vec<_> = host.alerts.iter().map(|alert| (alert.status, alert.severity)).collect();
    assert_eq!(told, [(Firing, Severity::Critical), (Resolved, Severity::Critical)]);
    assert_eq!(host.alerts[1].evidence["witnesses"], host.alerts[0].evidence["witnesses"]);
}

#[test]
fn what_is_over_or_open_already_is_not_opened() {
    let mut host = Host::new();
    host.samples(&cpu(), 10, &[92.0; 10]);
    host.samples(&cpu(), 10, &[50.0; 10]);
    let (mut host, last) = restarted(host, 30);
    assert_eq!((last.status, host.engine.open_incidents().count()), (Resolved, 0));
    host.samples(&cpu(), 10, &[92.0; 10]);
    let open = host.alerts.last().unwrap().clone();
    host.engine.restore(Host::time(host.now), &open);
    host.engine.restore(Host::time(host.now), &Alert { id: "0123456789abcdef".into(), ..open.clone() });
    assert_eq!(host.engine.open_incidents().map(|incident| incident.id.clone()).collect::<Vec<_>>(), [open.id]);
}

#[test]
fn several_are_opened_and_each_goes_its_way() {
    let mut host = Host::new();
    host.wait(60);
    host.event(hung());
    host.samples(&cpu(), 10, &[92.0; 10]);
    let alerts = std::mem::take(&mut host.alerts);
    assert_eq!(alerts.len(), 2);
    host.engine = Engine::new(&Config::default(), "web-01");
    alerts.iter().for_each(|alert| host.engine.restore(Host::time(host.now), alert));
    host.samples(&cpu(), 10, &[92.0; 100]);
    let told: Vec<_> = host.alerts.iter().map(|alert| (alert.status, alert.id.as_str())).collect();
    assert_eq!(told, [(Resolved, alerts[0].id.as_str())]);
    assert_eq!(host.engine.open_incidents().count(), 1);
}

#[test]
fn any_alert_can_be_restored() {
    let mut host = Host::new();
    host.event(hung());
    let alert = host.alerts.remove(0);
    for (id, delivery) in [("", ""), ("x", "x"), ("ffffffffffffffff", "ffffffffffffffff-18446744073709551615"), ("ä", "ä-")] {
        let mut host = Host::new();
        let alert = Alert { id: id.into(), delivery: delivery.into(), ..alert.clone() };
        host.engine.restore(Host::time(0), &alert);
        host.wait(700);
        assert_eq!(host.alerts.iter().map(|alert| (alert.status, alert.id.as_str())).collect::<Vec<_>>(), [(Resolved, id)]);
    }
}
