//! Patterns of the configuration on the lines of all logs.

use std::path::Path;

use serde_json::json;
use sysops_agent::config::{self, Config};
use sysops_agent::model::Status::Firing;
use sysops_agent::model::{Evidence, LogRecord, Observation, Severity};

use super::{Host, is};

fn config(patterns: &str) -> Config {
    let text = format!("[log_analyzer]\ncustom_patterns = [{patterns}]\n");
    config::parse(&text, Path::new("t.toml"), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn line(host: &mut Host, source: &'static str, text: &str) {
    let (text, facts) = (text.to_owned(), Evidence::new());
    host.observe(Observation::Log(LogRecord { source, is_kernel: false, level: None, text, written: None, facts }));
}

const LOGIN: &str =
    r"{ pattern = 'Failed password for (?P<user>\S+) from (?P<from>[0-9.]+)', severity = 'warn', name = 'login' }";

#[test]
fn named_groups_become_labels() {
    let mut host = Host::with(&config(LOGIN));
    line(&mut host, "journal", "sshd[12]: Failed password for root from 10.0.0.1 port 22");
    line(&mut host, "journal", "sshd[12]: Accepted password for root from 10.0.0.1 port 22");
    let alert = host.only();
    assert_eq!((&*alert.metric, alert.severity), ("log_match", Severity::Warn));
    assert_eq!(alert.labels.to_string(), r#"{from="10.0.0.1",pattern="login",user="root"}"#);
    assert_eq!(alert.message, "login: sshd[12]: Failed password for root from 10.0.0.1 port 22");
    assert_eq!(alert.evidence["source"], "journal");
}

#[test]
fn each_pattern_that_matches_is_told() {
    let mut host = Host::with(&config(
        "{ pattern = 'a', severity = 'info', name = 'a' }, { pattern = 'b', severity = 'critical', name = 'b' }",
    ));
    line(&mut host, "syslog", "ab");
    assert_eq!(host.told(), [is(Firing, "info a: ab"), is(Firing, "critical b: ab")]);
    host.line("kernel: b");
    assert_eq!(host.engine.open_incidents().map(|incident| incident.count).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn repetitions_are_counted() {
    let mut host = Host::with(&config(LOGIN));
    for _ in 0..1000 {
        line(&mut host, "syslog", "sshd[12]: Failed password for root from 10.0.0.1 port 22");
    }
    assert_eq!(host.told().len(), 1);
    assert_eq!(host.engine.open_incidents().next().unwrap().count, 1000);
}

#[test]
fn a_line_in_two_logs_is_one() {
    let mut host = Host::with(&config(LOGIN));
    for _ in 0..3 {
        for source in ["journal", "syslog"] {
            line(&mut host, source, "sshd[12]: Failed password for root from 10.0.0.1 port 22");
        }
    }
    assert_eq!(host.told().len(), 1);
    let incident = host.engine.open_incidents().next().unwrap();
    assert_eq!((incident.count, incident.witnesses.iter().copied().collect::<Vec<_>>()), (3, vec!["journal", "syslog"]));
}

#[test]
fn labels_that_never_repeat_are_told_together() {
    let mut host = Host::with(&config(LOGIN));
    let line_of = |number: u32| format!("sshd[12]: Failed password for user{number} from 10.0.0.1 port 22");
    for number in 0..1000 {
        line(&mut host, "syslog", &line_of(number));
    }
    // As many incidents at most; how many of them a message is worth is decided where incidents are.
    assert!(host.told().len() <= 21);
    assert_eq!(host.engine.open_incidents().count(), 21);
    let incidents: Vec<_> = host.engine.open_incidents().map(|incident| (incident.labels.to_string(), incident.count)).collect();
    assert_eq!(incidents.last().unwrap(), &(r#"{pattern="login"}"#.to_owned(), 980));
    assert_eq!(host.engine.stats().analyzer_dropped, 980);
    // Those that are known go on, and others get their turn when they have been silent.
    line(&mut host, "syslog", &line_of(3));
    assert_eq!(host.engine.open_incidents().nth(3).unwrap().count, 2);
    host.wait(601);
    host.alerts.clear();
    line(&mut host, "syslog", &line_of(500));
    assert_eq!(host.only().labels.get("user"), Some("user500"));
}

#[test]
fn values_are_bounded() {
    let mut host = Host::with(&config("{ pattern = '(?P<all>.*)', severity = 'info', name = 'all' }"));
    line(&mut host, "syslog", &"ä".repeat(4096));
    let alert = host.only();
    assert_eq!(alert.labels.get("all").unwrap().len(), 128);
    assert!(alert.message.len() < 300 && alert.evidence["line"].as_str().unwrap().len() <= 1024);
}

#[test]
fn another_configuration_is_in_force_at_once() {
    let mut host = Host::with(&config(LOGIN));
    host.engine.reconfigure(&config("{ pattern = 'x', severity = 'info', name = 'x' }"));
    line(&mut host, "syslog", "sshd[12]: Failed password for root from 10.0.0.1 port 22");
    assert_eq!(host.told(), []);
    line(&mut host, "syslog", "x");
    assert_eq!(host.only().labels.get("pattern"), Some("x"));
}

#[test]
fn what_was_logged_before_the_start_says_when() {
    let mut host = Host::with(&config("{ pattern = 'x', severity = 'info', name = 'x' }"));
    let written = Some(Host::time(-60));
    let (text, facts) = ("x".to_owned(), Evidence::new());
    host.observe(Observation::Log(LogRecord { source: "syslog", is_kernel: false, level: None, text, written, facts }));
    assert_eq!(host.only().evidence["logged_at"], json!("2023-11-14T22:12:20Z"));
}
