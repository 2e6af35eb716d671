//! Requests to block devices of the real kernel take too long, or fail; the alerts name device, request and issuer.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::{Stage, TRANSPORTS};
use xtask::faults::{FailingDevice, SlowDevice, needs_root};

#[test]
fn a_slow_request_is_measured() {
    if needs_root() {
        return;
    }
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "block_io_slow_ms = 100");
        let mut device = SlowDevice::attach().unwrap();
        let request = device.write(Duration::from_millis(400)).unwrap();
        let alert = stage.alert("kernel_block_io_slow", &[("device", device.name()), ("operation", "write")]);
        let (body, evidence) = (&alert.body, &alert.body["evidence"]);
        let (held, latency) = (request.held.as_secs_f64() * 1e3, body["value"].as_f64().unwrap());
        assert!((held..held * 10.0).contains(&latency), "{body:#}");
        assert_eq!(body["threshold"].as_f64(), Some(100.0), "{body:#}");
        assert_eq!(evidence["sector"], request.sector, "{body:#}");
        assert_eq!(evidence["bytes"], request.bytes, "{body:#}");
        assert_eq!(evidence["pid"], request.pid, "{body:#}");
        assert_eq!(evidence["comm"], request.comm, "{body:#}");
        stage.strike(&alert);
    }
}

#[test]
fn a_failed_request_is_named() {
    if needs_root() {
        return;
    }
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "");
        let device = FailingDevice::attach().unwrap();
        let request = device.read().unwrap();
        let alert = stage.alert("kernel_block_io_error", &[("device", device.name()), ("operation", "read")]);
        let (body, evidence) = (&alert.body, &alert.body["evidence"]);
        assert_eq!(evidence["error"], "EIO", "{body:#}");
        assert_eq!(evidence["sector"], request.sector, "{body:#}");
        assert_eq!(evidence["bytes"], request.bytes, "{body:#}");
        assert_eq!(evidence["pid"], request.pid, "{body:#}");
        assert_eq!(evidence["comm"], request.comm, "{body:#}");
        stage.strike(&alert);
    }
}
