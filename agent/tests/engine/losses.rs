//! What was lost stands in the alerts of its time.

use serde_json::{Value, json};
use sysops_agent::model::{Metric, SeriesKey, Unit};

use super::{Host, event, series};

static EVENTS_LOST: Metric = Metric::counter("agent_probe_events_lost_total", Unit::Count, "Lost.");
static MISSED: Metric = Metric::counter("agent_probe_recursion_misses_total", Unit::Count, "Missed.");
static RECORDS_LOST: Metric = Metric::counter("agent_log_records_lost_total", Unit::Count, "Lost.");

fn oom_losses() -> SeriesKey {
    series(&EVENTS_LOST, &[("probe", "oom")])
}

/// The losses in the one alert about an OOM kill that happens now.
fn losses(host: &mut Host) -> Value {
    let pid = format!("10{}", host.engine.stats().findings);
    host.event(event("kernel_oom_kill", &[("pid", &pid)], "x"));
    host.only().evidence.remove("losses").unwrap_or_default()
}

fn span(source: &str, name: &str, count: u64, from: i64, to: i64) -> Value {
    let time = |secs: i64| jiff::Timestamp::from_second(1_700_000_000 + secs).unwrap_or_default().to_string();
    json!({ "source": source, name: count, "from": time(from), "to": time(to) })
}

#[test]
fn an_alert_has_the_losses_of_its_time() {
    let mut host = Host::new();
    assert_eq!(losses(&mut host), Value::Null);
    host.samples(&oom_losses(), 10, &[3.0, 3.0]);
    assert_eq!(losses(&mut host), Value::Null, "what was lost before is nobody's");
    host.sample(&oom_losses(), 15.0);
    assert_eq!(losses(&mut host), json!([span("oom", "lost", 12, 10, 20)]));
    host.wait(5);
    host.sample(&series(&MISSED, &[("probe", "oom")]), 0.0);
    host.sample(&series(&RECORDS_LOST, &[("source", "kmsg")]), 0.0);
    host.wait(5);
    host.sample(&series(&MISSED, &[("probe", "oom")]), 2.0);
    host.sample(&series(&RECORDS_LOST, &[("source", "kmsg")]), 7.0);
    let expected = json!([span("oom", "lost", 12, 10, 20), span("oom", "missed", 2, 25, 30), span("kmsg", "lost", 7, 25, 30)]);
    assert_eq!(losses(&mut host), expected);
    host.wait(11);
    assert_eq!(losses(&mut host), Value::Null, "over");
    // The end of an incident has what was lost in all its time.
    host.alerts.clear();
    host.wait_until(630);
    let first = host.alerts.iter().find(|alert| alert.labels.get("pid") == Some("102")).unwrap();
    assert_eq!(first.evidence["losses"], expected);
}

#[test]
fn a_flood_is_one_span_and_a_reset_no_loss() {
    let mut host = Host::new();
    host.samples(&oom_losses(), 10, &[0.0, 5.0, 9.0, 2.0, 2.0, 3.0]);
    host.wait_until(50);
    assert_eq!(losses(&mut host), json!([span("oom", "lost", 1, 40, 50)]));
    let mut host = Host::new();
    host.samples(&oom_losses(), 10, &[0.0, 5.0]);
    host.sample(&oom_losses(), 9.0);
    assert_eq!(losses(&mut host), json!([span("oom", "lost", 9, 0, 20)]));
}

#[test]
fn what_an_event_told_of_is_not_counted_twice() {
    let mut host = Host::new();
    host.samples(&oom_losses(), 10, &[0.0]);
    let mut telling = event("kernel_oom_kill", &[("pid", "1")], "x");
    telling.evidence.insert("events_lost".into(), json!(4));
    host.event(telling);
    assert_eq!(host.only().evidence["losses"], json!([span("oom", "lost", 4, 0, 10)]));
    host.wait(10);
    host.sample(&oom_losses(), 6.0);
    assert_eq!(losses(&mut host), json!([span("oom", "lost", 6, 0, 20)]));
}

#[test]
fn losses_are_bounded() {
    let mut host = Host::new();
    for probe in 0..600 {
        let key = series(&EVENTS_LOST, &[("probe", &probe.to_string())]);
        host.sample(&key, 0.0);
        host.sample(&key, 1.0);
    }
    let told = losses(&mut host);
    assert_eq!(told.as_array().unwrap().len(), 8);
    assert_eq!(told[7]["source"], "599");
}
