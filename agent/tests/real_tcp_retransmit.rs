//! A TCP connection of the real kernel loses segments; the alert names both ends and the owner, not the interrupted task.

#[cfg(test)]
mod common;

use common::{Stage, TRANSPORTS};
use xtask::faults::{TcpLoss, needs_root};

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
