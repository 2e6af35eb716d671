//! Alerts as whoever is on call meets them: listed from disk, silenced, tried, and followed over a kill of the agent.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::faults::poll;
use xtask::receiver::Receiver;

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
/// A bound against hanging.
const SOON: Duration = Duration::from_secs(30);

/// A log that an agent watches, what it keeps, and where its alerts go.
struct Host {
    home: TempDir,
    receiver: Receiver,
}

impl Host {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("data")).unwrap();
        fs::write(home.path().join("syslog"), "").unwrap();
        let host = Self { home, receiver: Receiver::start().unwrap() };
        fs::write(host.path("config.toml"), host.config()).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// No BPF and no root; what a unit's failure says in the log is an incident, which ten seconds of silence end.
    fn config(&self) -> String {
        format!(
            "[agent]\ndata_dir = '{}'\n[ebpf]\nenabled = false\n\
             [log_analyzer]\nsources = ['syslog']\nsyslog_path = '{}'\n\
             custom_patterns = [{{ pattern = 'unit (?P<unit>\\w+) failed', severity = 'critical', name = 'unit failed' }}]\n\
             [alerting]\ndedup_window_secs = 10\n[alerting.grouping]\nenabled = false\n\
             [alerting.webhook]\nenabled = true\nurl = '{}'\n",
            self.path("data").display(),
            self.path("syslog").display(),
            self.receiver.url()
        )
    }

    fn start(&self) -> AgentProcess {
        AgentProcess::start(Path::new(AGENT), &self.config(), &[]).unwrap()
    }

    fn fails(&self, unit: &str) {
        let mut log = fs::OpenOptions::new().append(true).open(self.path("syslog")).unwrap();
        writeln!(log, "Nov 21 16:30:00 web-01 supervisor[7]: unit {unit} failed").unwrap();
    }

    /// Runs a subcommand with the host's configuration.
    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(AGENT);
        command.args(arguments).arg("--config").arg(self.path("config.toml")).env("NO_PROXY", "127.0.0.1").output().unwrap()
    }

    /// What the outbox holds about a unit.
    fn kept(&self, unit: &str) -> Vec<Value> {
        let output = self.ask(&["alerts", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let all = text(&output.stdout).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
        all.into_iter().filter(|alert| alert["labels"]["unit"] == unit).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn about(unit: &str, status: &str) -> impl Fn(&Value) -> bool {
    move |body| body["labels"]["unit"] == unit && body["status"] == status
}

#[test]
fn alerts_are_listed_with_what_came_of_them_also_while_no_agent_runs() {
    let host = Host::new();
    let before = host.ask(&["alerts"]);
    assert_eq!(before.status.code(), Some(1));
    assert!(text(&before.stderr).contains("alerts.db"), "{before:?}");
    let mut agent = host.start();
    host.fails("db");
    let told = host.receiver.wait_for(SOON, about("db", "firing")).unwrap();
    let accepted = || {
        let kept = host.kept("db");
        Ok((kept.first().is_some_and(|alert| alert["channels"]["webhook"]["state"] == "accepted")).then_some(kept))
    };
    let kept = poll("the accepted alert on disk", SOON, accepted).unwrap();
    for key in ["id", "delivery", "status", "severity", "metric", "value", "message", "labels"] {
        assert_eq!(kept[0][key], told.body[key], "{key}");
    }
    agent.stop(SOON).unwrap();
    let open = host.ask(&["alerts", "--open"]);
    assert!(text(&open.stdout).contains("unit db failed") && text(&open.stdout).contains("webhook accepted"), "{open:?}");
    assert_eq!(text(&host.ask(&["alerts", "--since", "1h"]).stdout).matches("unit db failed").count(), 1);
}

#[test]
fn what_waits_for_a_dead_channel_is_listed_and_shown_by_doctor() {
    let host = Host::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = host.config().replace(&host.receiver.url(), &format!("http://{nobody}/"));
    fs::write(host.path("config.toml"), &config).unwrap();
    let mut agent = AgentProcess::start(Path::new(AGENT), &config, &[]).unwrap();
    host.fails("db");
    let waits =
        || Ok(host.kept("db").first().is_some_and(|alert| alert["channels"]["webhook"]["state"] == "waiting").then_some(()));
    poll("the alert that waits", SOON, waits).unwrap();
    let waiting = || {
        let report: Value = serde_json::from_slice(&host.ask(&["doctor", "--json"]).stdout).unwrap();
        assert_eq!(report["outbox"], host.path("data/alerts.db").display().to_string());
        report["channels"][0].clone()
    };
    let running = waiting();
    assert_eq!((&running["channel"], &running["waiting"], &running["error"]), (&"webhook".into(), &1.into(), &Value::Null));
    agent.stop(SOON).unwrap();
    assert_eq!(waiting()["waiting"], 1, "it outlives the agent");
    // The next run has somebody to tell.
    let mut agent = host.start();
    host.receiver.wait_for(SOON, about("db", "firing")).unwrap();
    agent.stop(SOON).unwrap();
}

#[test]
fn an_incident_goes_on_under_its_id_after_a_kill_and_is_told_to_be_over() {
    let host = Host::new();
    let mut agent = host.start();
    host.fails("db");
    let told = host.receiver.wait_for(SOON, about("db", "firing")).unwrap();
    poll("the alert on disk", SOON, || Ok((!host.kept("db").is_empty()).then_some(()))).unwrap();
    assert!(agent.stop_with(Signal::KILL, SOON).is_err(), "a kill is no orderly end");
    let mut agent = host.start();
    let over = host.receiver.wait_for(SOON, about("db", "resolved")).unwrap();
    assert_eq!(over.body["id"], told.body["id"]);
    assert_ne!(over.body["delivery"], told.body["delivery"]);
    poll("nothing open", SOON, || Ok((text(&host.ask(&["alerts", "--open"]).stdout) == "nothing is open\n").then_some(())))
        .unwrap();
    agent.stop(SOON).unwrap();
}

#[test]
fn a_silence_keeps_alerts_back_while_it_is_there() {
    let host = Host::new();
    let mut agent = host.start();
    let added = host.ask(&["silence", "add", "--for", "1h", "--comment", "being moved", "unit=~db.*"]);
    assert!(added.status.success(), "{added:?}");
    let id = text(&added.stdout).trim().to_owned();
    let listed = text(&host.ask(&["silence", "list"]).stdout);
    assert!(listed.contains(&id) && listed.contains("unit=~\"db.*\"") && listed.contains("being moved"), "{listed}");
    // The agent sees it within seconds: a new incident every now and then shows when.
    let mut number = 0;
    let silenced = || {
        number += 1;
        let unit = format!("db{number}");
        host.fails(&unit);
        let kept = poll("the alert on disk", SOON, || Ok(host.kept(&unit).into_iter().next()))?;
        Ok((kept["silenced_by"] == id.as_str()).then_some(unit))
    };
    let unit = poll("a silenced alert", SOON, silenced).unwrap();
    host.fails("web");
    host.receiver.wait_for(SOON, about("web", "firing")).unwrap();
    assert!(!host.receiver.all().iter().any(|received| received.body["labels"]["unit"] == unit.as_str()), "it came before web's");

    assert!(host.ask(&["silence", "rm", &id]).status.success());
    assert_eq!(host.ask(&["silence", "rm", &id]).status.code(), Some(1));
    assert_eq!(text(&host.ask(&["silence", "list"]).stdout), "there are no silences\n");
    host.fails("web2");
    host.receiver.wait_for(SOON, about("web2", "firing")).unwrap();
    agent.stop(SOON).unwrap();
}

#[test]
fn what_makes_no_silence_is_refused() {
    let host = Host::new();
    for (arguments, reason) in [
        (&["silence", "add", "unit=db"][..], "--for"),
        (&["silence", "add", "--for", "1h", "unit"], "\"unit\""),
        (&["silence", "add", "--for", "1h", "unit=~("], "regular expression"),
        (&["silence", "add", "--for", "1h", "unit=~.*"], "every alert"),
        (&["silence", "add", "--ends", "2020-01-01T00:00:00Z", "unit=db"], "not after the start"),
        (&["silence", "add", "--ends", "tomorrow", "unit=db"], "2026-02-22T16:30:00+09:00"),
    ] {
        let output = host.ask(arguments);
        assert!(!output.status.success() && text(&output.stderr).contains(reason), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_test_alert_goes_the_real_way_and_tells_what_the_service_said() {
    let host = Host::new();
    let sent = host.ask(&["test-alert", "--severity", "critical", "--resolve"]);
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    assert!(text(&sent.stdout).starts_with("webhook      accepted: HTTP 200"), "{sent:?}");
    let statuses: Vec<_> = host.receiver.all().iter().map(|received| received.body["status"].clone()).collect();
    assert_eq!(statuses, ["firing", "resolved"]);
    assert_eq!(host.receiver.all()[0].body["severity"], "critical");

    let unknown = host.ask(&["test-alert", "--channel", "slack"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("it enables webhook"), "{unknown:?}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(
        host.path("config.toml"),
        format!("[alerting.webhook]\nenabled = true\nurl = 'http://u:hunter2@{nobody}/hunter2'\n"),
    )
    .unwrap();
    let refused = host.ask(&["test-alert"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stdout);
    assert!(said.starts_with("webhook      NOT accepted: cannot reach") && !said.contains("hunter2"), "{said}");
}
