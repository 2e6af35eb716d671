//! A process of the real kernel runs out of descriptors; the alert names what it opened.

#[cfg(test)]
mod common;

use common::{Stage, TRANSPORTS};
use xtask::faults::fd_exhaustion::{FdExhaustion, Kind};
use xtask::faults::needs_root;

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
