//! Alerts on their way out: what each channel renders, how it meets the real thing on the other end, and how `alerting` copes
//! when that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy's leave for tests does not reach what tests share")]

mod alerting;
mod alertmanager;
mod chats;
mod discord;
mod email;
mod golden;
mod limits;
mod mail_server;
mod ntfy;
mod opsgenie;
mod outbox;
mod pagerduty;
mod receiver;
mod service;
mod slack;
mod stand_in;
mod syslog;
mod teams;
mod telegram;
mod templates;
mod terminal;
mod transport;
mod webhook;

use std::time::Duration;

use serde_json::json;
use sysops_agent::config::Config;
use sysops_agent::model::{Alert, Evidence, Labels, Message, Severity, Status, Timestamp};
use sysops_agent::notifiers::{Accepted, BuildError, Channel, Clients, NOTIFIERS, SendError, Sender};

/// 2026-02-22 16:30:00.250 in a zone nine hours east.
const AT: Timestamp = Timestamp::from_nanos(1_771_745_400_250_000_000);

fn sender() -> Sender {
    Sender {
        hostname: "web-01".into(),
        address: "192.0.2.7".into(),
        time_zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(9)),
        pid: 4242,
    }
}

/// An alert with everything in it that is usual.
fn alert(severity: Severity) -> Alert {
    Alert {
        id: "i-1".into(),
        delivery: "d-1".into(),
        at: AT,
        status: Status::Firing,
        severity,
        metric: "cpu_usage_percent".into(),
        value: 95.2,
        threshold: Some(90.0),
        message: "CPU usage 95.2% exceeds threshold 90%".into(),
        labels: Labels::new().with("core", "all"),
        duration: Duration::from_secs(330),
        count: 33,
        evidence: Evidence::new(),
    }
}

/// A kernel event with a stack.
fn oom() -> Alert {
    let evidence = json!({
        "stack": "oom_kill_process+0x1c4/0x230\nout_of_memory+0x1a5/0x5a0\n",
        "top_processes": ["java 4242 1.9 GB", "postgres 811 310 MB"],
        "anon_rss_bytes": 2_147_483_648_u64,
        "cmdline": "/usr/bin/java -Xmx4g -jar app.jar",
        "limit": { "cgroup": "/system.slice/app.service", "memory_max_bytes": 2_147_483_648_u64 },
        "confirmed": true,
    });
    Alert {
        metric: "kernel_oom_kill".into(),
        value: 1.0,
        threshold: None,
        message: "OOM killer chose java (pid 4242) in /system.slice/app.service".into(),
        labels: Labels::new().with("comm", "java").with("pid", "4242").with("cgroup", "/system.slice/app.service"),
        duration: Duration::ZERO,
        count: 1,
        evidence: evidence.as_object().unwrap().clone(),
        ..alert(Severity::Critical)
    }
}

/// The channel that the table's row of this name makes.
fn channel(name: &str, config: &Config) -> Result<Option<Channel>, BuildError> {
    let row = NOTIFIERS.iter().find(|row| row.name == name).unwrap();
    (row.build)(config, &Clients::new(config.alerting.ca_file.clone()))
}

/// Renders the alert by itself and sends it once.
async fn send(channel: &Channel, alert: &Alert) -> Result<Accepted, SendError> {
    let message = channel.notifier.render(&Message::of(alert.clone().into()), &sender());
    channel.notifier.send(&message).await
}
