//! A process of the real kernel runs out of descriptors; the alert names what it opened.

#[cfg(test)]
mod common;

use std::process::{Command, Stdio};

use common::{Stage, TRANSPORTS};
use xtask::faults::fd_exhaustion::{FdExhaustion, Kind};
use xtask::faults::{KillOnDrop, needs_root};

#[cfg(test)]
fn is_named(kind: Kind, name: &str) {
    if needs_root() {
        return;
    }
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "");
        let leak = FdExhaustion::cause(kind).unwrap();
        let alert = stage.alert("kernel_fd_exhausted", &[("pid", &leak.pid.to_string())]);
        let (body, evidence) = (&alert.body, &alert.body["evidence"]);
        assert_eq!(body["labels"]["comm"], leak.comm, "{body:#}");
        assert_eq!(body["value"].as_f64(), Some(leak.open as f64), "{body:#}");
        assert_eq!(evidence["errno"], "EMFILE", "{body:#}");
        assert_eq!(evidence["limit"], leak.limit, "{body:#}");
        assert!(evidence["kinds"][name].as_u64().is_some_and(|count| count >= leak.of_kind), "{body:#}");
        assert!(evidence["commonest"].as_str().is_some_and(|commonest| commonest.starts_with(name)), "{body:#}");
        stage.strike(&alert);
    }
}

/// Of a process that was started with secrets in its arguments, the command line is told without them.
#[test]
fn secrets_of_a_command_line_stay_on_the_host() {
    // Fills the table of descriptors, and tries again 20 times a second; a read with a time limit needs none.
    const LEAK: &str = "ulimit -n 16; for fd in 3 4 5 6 7 8 9 10 11 12 13 14 15; do eval \"exec $fd</dev/null\"; done; \
                        while :; do : </dev/null; read -t 0.05; done";
    if needs_root() {
        return;
    }
    let stage = Stage::set(TRANSPORTS[0], "");
    let arguments = ["app", "--password=hunter2", "--token", "hunter2", "postgres://app:hunter2@db/shop", "--port=5432"];
    let mut leak = Command::new("bash");
    leak.args(["-c", LEAK]).args(arguments).stdin(Stdio::piped()).stderr(Stdio::null());
    let leak = KillOnDrop::new(leak.spawn().unwrap());
    let alert = stage.alert("kernel_fd_exhausted", &[("pid", &leak.pid().to_string())]);
    let told = alert.body["evidence"]["command_line"].as_str().unwrap();
    assert!(told.ends_with("app --password=*** --token *** postgres://app:***@db/shop --port=5432"), "{told}");
    assert!(!alert.body.to_string().contains("hunter2"), "{:#}", alert.body);
    drop(leak);
    stage.strike(&alert);
}

#[test]
fn sockets() {
    is_named(Kind::Socket, "socket");
}

#[test]
fn files() {
    is_named(Kind::File, "file");
}

#[test]
fn pipes() {
    is_named(Kind::Pipe, "pipe");
}
