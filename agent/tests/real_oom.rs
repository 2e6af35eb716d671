//! A memory cgroup of the real kernel runs out of memory; the alert names the victim.

#[cfg(test)]
mod common;

use common::{Stage, TRANSPORTS};
use xtask::faults::{MemcgOom, needs_root};

#[test]
fn every_oom_kill_names_its_victim() {
    if needs_root() {
        return;
    }
    for transport in TRANSPORTS {
        let stage = Stage::set(transport, "");
        let limit = 48_u64 << 20;
        // Three in a row: each must arrive, none may be folded into another.
        let ooms = [(); 3].map(|()| MemcgOom::cause(limit).unwrap());
        let alerts = ooms.each_ref().map(|oom| stage.alert("kernel_oom_kill", &[("pid", &oom.pid.to_string())]));
        for (oom, alert) in ooms.iter().zip(&alerts) {
            let (body, evidence) = (&alert.body, &alert.body["evidence"]);
            assert_eq!(body["severity"], "critical", "{body:#}");
            assert_eq!(body["labels"]["comm"], oom.comm, "{body:#}");
            assert_eq!(body["labels"]["cgroup"], oom.cgroup, "{body:#}");
            assert_eq!(evidence["constraint"], "memcg", "{body:#}");
            assert_eq!(evidence["limit_bytes"], oom.limit_bytes, "{body:#}");
            assert_eq!(evidence["killed"], true, "{body:#}");
            // The only process of the cgroup is the one that asked for too much.
            assert_eq!(evidence["trigger_pid"], oom.pid, "{body:#}");
            assert_eq!(evidence["trigger_comm"], oom.comm, "{body:#}");
            // An exiting task of cgroup v1 shows `/`; that must not be taken for where it was.
            assert!(evidence.get("trigger_cgroup").is_none_or(|cgroup| *cgroup == oom.cgroup), "{body:#}");
            // Nearly all of the limit was its anonymous memory; the rest is page tables, stacks and the like. Counters that are
            // kept per CPU make the kernel's own figure a little inexact in both directions.
            let rss = evidence["anon_rss_kb"].as_u64().unwrap() * 1024;
            assert!((limit * 3 / 4..=limit * 21 / 20).contains(&rss), "{rss} of {limit}: {body:#}");
        }
        let [alert, ..] = &alerts;
        stage.strike(alert);
    }
}
