//! A TCP connection of the real kernel loses segments; the alert names both ends and the owner, not the interrupted task.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::{Stage, TRANSPORTS};
use xtask::faults::{TcpLoss, needs_root, poll};

#[test]
fn a_lossy_connection_has_its_addresses_and_its_owner() {
    if needs_root() {
        return;
    }
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "tcp_retransmit_burst = 2");
        let loss = TcpLoss::establish().unwrap();
        loss.lose(3).unwrap();
        let (local, peer) = (loss.local.to_string(), loss.peer.to_string());
        let alert = stage.alert("kernel_tcp_retransmit", &[("local", &local), ("peer", &peer)]);
        let (body, evidence) = (&alert.body, &alert.body["evidence"]);
        assert_eq!(body["labels"]["pid"], loss.pid.to_string(), "{body:#}");
        assert_eq!(body["labels"]["comm"], loss.comm, "{body:#}");
        assert_eq!(evidence["state"], "established", "{body:#}");
        // No more than the kernel itself counts in that namespace by now.
        let value = body["value"].as_f64().unwrap();
        assert!(value >= 2.0 && value <= loss.retransmitted().unwrap() as f64, "{body:#}");
        stage.strike(&alert);
    }
}

#[test]
fn a_connection_keeps_its_owner_when_that_has_ended() {
    if needs_root() {
        return;
    }
    let stage = Stage::set(TRANSPORTS[0], "tcp_retransmit_burst = 2");
    let loss = TcpLoss::establish().unwrap();
    let told = || {
        let lines = stage.agent.stdout();
        let about = format!("event     TCP segments from {} to {}", loss.local, loss.peer);
        lines.lines().filter(|line| line.contains(&about)).map(str::to_owned).collect::<Vec<_>>()
    };
    loss.lose(3).unwrap();
    stage.alert("kernel_tcp_retransmit", &[("local", &loss.local.to_string())]);
    // Hardly anything arrives any more, so what the process leaves behind is sent again.
    loss.lose(9).unwrap();
    loss.end_sender();
    let before = told().len();
    poll("a segment that nobody holds the socket of", Duration::from_secs(15), || Ok((told().len() > before).then_some(())))
        .unwrap();
    let owner = format!(" of {} (pid {}) ", loss.comm, loss.pid);
    assert!(told().iter().all(|line| line.contains(&owner)), "{:#?}", told());
}
