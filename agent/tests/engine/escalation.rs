//! What goes on gets worse: when, in which words, and what does not.

use std::path::Path;

use serde_json::json;
use sysops_agent::config::{Config, parse};
use sysops_agent::model::Status::{Firing, Resolved, Updated};
use sysops_agent::model::{Alert, KernelEvent, Metric, Observation, Severity, Unit};

use super::{CPU, Host, PROCESS_FD, event, is, series};

static SPACE: Metric = Metric::gauge("disk_available_bytes", Unit::Bytes, "Space left.");

/// An event of severity Warn.
fn hung() -> KernelEvent {
    event("kernel_hung_task", &[("comm", "cat"), ("pid", "12")], "cat (pid 12) blocked for more than 120 s")
}

fn config(text: &str) -> Config {
    parse(text, Path::new("t.toml"), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A host whose CPU is at `values`, one every ten seconds, and its alerts with the second of each.
fn cpu(config: &Config, values: impl IntoIterator<Item = f64>) -> Vec<(i64, Alert)> {
    let (mut host, cpu) = (Host::with(config), series(&CPU, &[("core", "all")]));
    for value in values {
        host.samples(&cpu, 10, &[value]);
    }
    timed(host.alerts)
}

fn timed(alerts: Vec<Alert>) -> Vec<(i64, Alert)> {
    let second = |alert: &Alert| (alert.at.as_nanos() - Host::time(0).as_nanos()) / 1_000_000_000;
    alerts.into_iter().map(|alert| (second(&alert), alert)).collect()
}

fn severities(alerts: &[(i64, Alert)]) -> Vec<(i64, Severity)> {
    alerts.iter().map(|(second, alert)| (*second, alert.severity)).collect()
}

#[test]
fn a_condition_that_holds_becomes_critical_and_then_an_emergency() {
    let alerts = cpu(&Config::default(), [92.0; 400]);
    // A minute until it is told, four further intervals of 300 seconds, thirty minutes.
    assert_eq!(severities(&alerts), [(60, Severity::Warn), (1260, Severity::Critical), (3060, Severity::Emergency)]);
    let texts: Vec<&str> = alerts.iter().map(|(_, alert)| alert.message.as_str()).collect();
    assert_eq!(
        texts,
        [
            "CPU usage 92.0% exceeds threshold 90% for 1 min",
            "CPU usage 92.0% exceeds threshold 90% for 1 min; escalated from warn to critical: it has gone on for 20 min",
            "CPU usage 92.0% exceeds threshold 90% for 1 min; escalated from critical to emergency: it has not been resolved for 30 min",
        ]
    );
    let [(_, first), (_, second), (_, third)] = alerts.as_slice() else { panic!("{alerts:?}") };
    assert_eq!(first.evidence.get("escalated"), None);
    assert_eq!(second.evidence["escalated"], json!({ "from": "warn", "to": "critical", "after_secs": 1200 }));
    assert_eq!(third.evidence["escalated"], json!({ "from": "critical", "to": "emergency", "after_secs": 1800 }));
    assert_eq!([&second.status, &third.status], [&Updated, &Updated]);
    assert!(first.id == second.id && second.id == third.id && second.delivery != third.delivery);
}

#[test]
fn it_is_over_as_it_was_and_the_next_begins_anew() {
    let alerts = cpu(&Config::default(), [92.0].repeat(130).into_iter().chain([50.0].repeat(90)).chain([92.0].repeat(120)));
    let told: Vec<_> = alerts.iter().map(|(_, alert)| (alert.status, alert.severity)).collect();
    assert_eq!(
        told,
        [(Firing, Severity::Warn), (Updated, Severity::Critical), (Resolved, Severity::Critical), (Firing, Severity::Warn)]
    );
    assert_eq!(alerts[2].1.evidence["escalated"]["to"], "critical");
    assert_eq!(alerts[3].1.evidence.get("escalated"), None);
}

#[test]
fn the_configuration_decides_when_and_whether() {
    let off = config("[alerting.escalation]\nenabled = false");
    assert_eq!(severities(&cpu(&off, [92.0; 400])), [(60, Severity::Warn)]);
    let soon = config(
        "[alerting]\nmin_interval_secs = 60\nescalation = { warn_to_critical_after = 3, critical_to_emergency_after_mins = 5 }",
    );
    let expected = [(60, Severity::Warn), (180, Severity::Critical), (480, Severity::Emergency)];
    assert_eq!(severities(&cpu(&soon, [92.0; 60])), expected);
}

#[test]
fn a_limit_of_its_own_makes_it_critical_once() {
    // Critical from 95 on: told after a minute of that, and an emergency thirty minutes after it was told.
    let alerts = cpu(&Config::default(), [92.0].repeat(30).into_iter().chain([97.0].repeat(250)));
    assert_eq!(severities(&alerts), [(60, Severity::Warn), (360, Severity::Critical), (2160, Severity::Emergency)]);
    // The limit is passed after it has become critical by lasting: nothing new.
    let alerts = cpu(&Config::default(), [92.0].repeat(140).into_iter().chain([97.0].repeat(100)));
    assert_eq!(severities(&alerts), [(60, Severity::Warn), (1260, Severity::Critical)]);
}

#[test]
fn a_value_that_swings_around_its_limit_does_not() {
    // The incident stays open: 88 is not below the limit that clears it.
    let swings = (0..400).map(|sample| if sample % 100 == 99 { 88.0 } else { 92.0 });
    assert_eq!(severities(&cpu(&Config::default(), swings)), [(60, Severity::Warn)]);
    // After the last swing, at 990, it lasts.
    let swings = (0..250).map(|sample| if sample == 99 { 88.0 } else { 92.0 });
    assert_eq!(severities(&cpu(&Config::default(), swings)), [(60, Severity::Warn), (2200, Severity::Critical)]);
    // It begins and ends again and again.
    let flaps = (0..600).map(|sample| if sample % 20 < 10 { 92.0 } else { 50.0 });
    let alerts = cpu(&Config::default(), flaps);
    assert!(alerts.len() >= 3 && alerts.iter().all(|(_, alert)| alert.severity == Severity::Warn), "{alerts:#?}");
}

#[test]
fn events_that_keep_coming_do() {
    let mut host = Host::new();
    host.wait(60);
    for _ in 0..12 {
        host.event(hung());
        host.wait(240);
    }
    let alerts = timed(host.alerts);
    let raised: Vec<_> = alerts.iter().filter(|(_, alert)| alert.evidence.contains_key("escalated")).collect();
    assert_eq!((raised[0].0, raised[0].1.severity), (1260, Severity::Critical));
    let message = &raised[0].1.message;
    assert!(message.ends_with("; escalated from warn to critical: it has gone on for 20 min"), "{message}");
    assert!(raised.iter().all(|(_, alert)| alert.severity == Severity::Critical));
}

#[test]
fn events_with_gaps_do_not() {
    let mut host = Host::new();
    for _ in 0..20 {
        host.event(hung());
        host.wait(301);
    }
    assert!(host.alerts.len() > 10 && host.alerts.iter().all(|alert| alert.severity == Severity::Warn), "{:#?}", host.alerts);
    assert_eq!(host.engine.open_incidents().count(), 1, "a gap is no end");
}

#[test]
fn a_single_critical_event_is_no_emergency() {
    let mut host = Host::new();
    host.wait(60);
    host.event(event("kernel_oom_kill", &[("comm", "x"), ("pid", "1")], "killed 1"));
    host.wait(4000);
    let told: Vec<_> = host.alerts.iter().map(|alert| (alert.status, alert.severity)).collect();
    assert_eq!(told, [(Firing, Severity::Critical), (Resolved, Severity::Critical)]);
}

#[test]
fn an_emergency_of_events_waits_until_they_come_again() {
    let mut host = Host::new();
    host.wait(60);
    let kill = || event("kernel_oom_kill", &[("comm", "x"), ("pid", "1")], "killed 1");
    // Never for ten minutes nothing, and nothing for five when thirty minutes are over.
    for second in [0, 500, 1000, 1490, 1970] {
        host.wait_until(60 + second);
        host.event(kill());
    }
    let raised = |host: &Host| {
        let raised = host.alerts.iter().filter(|alert| alert.severity == Severity::Emergency).count();
        (host.now, raised)
    };
    assert_eq!(raised(&host), (2030, 0));
    host.wait(1);
    assert_eq!(raised(&host), (2031, 1));
}

#[test]
fn predictions_and_outliers_do_not() {
    // A file system that will be full after four days.
    let (mut host, space) = (Host::new(), series(&SPACE, &[("mount", "/var")]));
    let mut worst = Vec::new();
    for second in (0..4 * 86_400).step_by(10) {
        if second % 60 == 0 {
            host.sample(&space, 3e11 * (1.0 - f64::from(second) / 345_600.0));
        }
        host.now += 10;
        host.observe(Observation::Tick);
        worst.append(&mut host.alerts);
    }
    let has = |severity| worst.iter().any(|alert| alert.severity == severity && alert.labels.get("analyzer") == Some("trend"));
    assert!(has(Severity::Warn) && has(Severity::Critical), "{worst:#?}");
    assert!(worst.iter().all(|alert| !alert.evidence.contains_key("escalated")), "{worst:#?}");
}

#[test]
fn a_clock_that_jumps_begins_counting_anew() {
    for jump in [3600, -3600] {
        let mut host = Host::new();
        let fd = series(&PROCESS_FD, &[("comm", "nginx"), ("pid", "7")]);
        host.samples(&fd, 30, &[85.0; 20]);
        let told = host.told();
        assert_eq!(told.len(), 1, "{told:?}");
        host.now += jump;
        let from = host.now;
        host.samples(&fd, 30, &[85.0; 39]);
        assert_eq!(host.told(), [], "jump of {jump} s, {} s ago", host.now - from);
        host.samples(&fd, 30, &[85.0; 3]);
        let told = host.told();
        assert_eq!(told.len(), 1, "jump of {jump} s: {told:?}");
        assert!(told[0].1.starts_with("critical") && told[0].1.ends_with("it has gone on for 20 min"), "{told:?}");
    }
}

#[test]
fn the_same_observations_give_the_same() {
    let run = || {
        let mut host = Host::new();
        let cpu = series(&CPU, &[("core", "all")]);
        for round in 0..300 {
            host.samples(&cpu, 10, &[92.0]);
            if round % 20 == 0 {
                host.event(hung());
            }
        }
        host.alerts
    };
    let alerts = run();
    assert!(alerts.iter().filter(|alert| alert.evidence.contains_key("escalated")).count() > 2);
    assert_eq!(alerts, run());
}

#[test]
fn a_finding_that_joins_is_part_of_what_goes_on() {
    let mut host = Host::new();
    host.wait(60);
    for round in 0..6 {
        let pid = if round % 2 == 0 { "12" } else { "13" };
        host.event(event("kernel_hung_task", &[("cgroup", "/a"), ("comm", "cat"), ("pid", pid)], "stuck"));
        host.wait(290);
    }
    assert_eq!(host.engine.open_incidents().count(), 1);
    let first = host.told();
    assert_eq!(first.first(), Some(&is(Firing, "warn stuck")));
    assert!(first.iter().any(|(_, text)| text.starts_with("critical") && text.contains("escalated from warn")), "{first:?}");
}
