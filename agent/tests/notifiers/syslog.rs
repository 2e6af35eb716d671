//! Syslog against a real datagram socket.

use std::path::Path;
use std::time::Duration;

use sysops_agent::config::{Config, Syslog, SyslogFacility};
use sysops_agent::model::{Alert, Severities, Severity, Status};
use sysops_agent::notifiers::{Channel, SendError};
use tokio::net::UnixDatagram;

use super::{alert, channel, send};

fn to(socket: &Path) -> Channel {
    let mut config = Config::default();
    config.alerting.syslog = Some(Syslog {
        facility: SyslogFacility(3),
        tag: "sysops-agent".into(),
        socket: socket.into(),
        severities: Severities::from(Severity::Info),
    });
    channel("syslog", &config).unwrap().unwrap()
}

async fn receive(daemon: &UnixDatagram) -> String {
    let mut line = vec![0; 64 * 1024];
    let length = tokio::time::timeout(Duration::from_secs(10), daemon.recv(&mut line)).await.unwrap().unwrap();
    line.truncate(length);
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn severities_are_levels_and_an_end_is_a_notice() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    let channel = to(&path);
    for (severity, priority) in Severity::ALL.into_iter().zip(["<30>", "<28>", "<26>", "<24>"]) {
        send(&channel, &alert(severity)).await.unwrap();
        let line = receive(&daemon).await;
        assert!(line.starts_with(&format!("{priority}Feb 22 16:30:00 sysops-agent[4242]: CPU usage 95.2%")), "{line}");
    }
    send(&channel, &Alert { status: Status::Resolved, ..alert(Severity::Emergency) }).await.unwrap();
    assert!(receive(&daemon).await.starts_with("<29>Feb 22 16:30:00 sysops-agent[4242]: [RESOLVED] CPU usage"));
}

#[tokio::test]
async fn a_daemon_that_restarts_loses_nothing_after_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    let channel = to(&path);
    let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }) && error.to_string().contains("start the syslog daemon"), "{error:?}");

    let daemon = UnixDatagram::bind(&path).unwrap();
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    receive(&daemon).await;

    drop(daemon);
    let error = send(&channel, &alert(Severity::Warn)).await.unwrap_err();
    assert!(matches!(error, SendError::Retry { .. }) && error.to_string().contains("nobody listens there"), "{error:?}");

    std::fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    receive(&daemon).await;

    // This time nobody notices between the end of the one and the start of the other.
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    send(&channel, &alert(Severity::Warn)).await.unwrap();
    receive(&daemon).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_read_holds_nobody_for_long() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("log");
    let _daemon = UnixDatagram::bind(&path).unwrap();
    let channel = to(&path);
    let error = loop {
        if let Err(error) = send(&channel, &alert(Severity::Warn)).await {
            break error;
        }
    };
    assert!(matches!(error, SendError::Retry { .. }) && error.to_string().contains("does not read its socket"), "{error:?}");
}
