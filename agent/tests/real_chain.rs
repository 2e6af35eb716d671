//! A process leaks in one cgroup until the kernel kills another in a second one: one incident that names both.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::{Stage, TRANSPORTS};
use serde_json::Value;
use xtask::faults::{SharedOom, needs_root};

#[test]
fn a_leak_in_one_cgroup_that_kills_in_another_is_one_incident() {
    if needs_root() {
        return;
    }
    let stage =
        Stage::set(TRANSPORTS[0], "[collector]\nprocess_interval_secs = 1\n[collector.process]\ntrack_patterns = ['^fault-']\n");
    let mut oom = SharedOom::begin().unwrap();
    oom.wait().unwrap();
    let alert = stage.alert("kernel_oom_kill", &[("pid", &oom.victim.to_string())]);
    let body = &alert.body;
    assert_eq!((&body["status"], &body["labels"]["comm"]), (&"firing".into(), &SharedOom::VICTIM.into()), "{body:#}");
    assert_eq!(
        (&body["labels"]["cgroup"], &body["evidence"]["limit_cgroup"]),
        (&(*oom.victim_cgroup).into(), &(*oom.limit_cgroup).into())
    );
    let chain = body["evidence"]["chain"].as_array().unwrap();
    let kinds: Vec<&str> = chain.iter().filter_map(|link| link["link"].as_str()).collect();
    assert_eq!(kinds, ["growth", "reclaim", "kernel_oom_kill"], "{body:#}");
    let growth = &chain[0]["evidence"];
    assert_eq!((&growth["pid"], &growth["comm"]), (&oom.grower.to_string().into(), &SharedOom::GROWER.into()), "{body:#}");
    assert_eq!(growth["cgroup"], *oom.grower_cgroup, "{body:#}");
    let times: Vec<&str> = chain.iter().filter_map(|link| link["at"].as_str()).collect();
    assert!(times.is_sorted(), "{times:?}");

    let successor = oom.restart().unwrap().to_string();
    let told = stage.receiver.wait_for(Duration::from_secs(20), |told| {
        let last = told["evidence"]["chain"].as_array().and_then(|chain| chain.last());
        told["id"] == body["id"] && last.is_some_and(|link| link["link"] == "restart" && link["evidence"]["pid"] == *successor)
    });
    let told = told.unwrap();
    assert_eq!((&told.body["status"], &told.body["metric"]), (&Value::from("updated"), &body["metric"]));
    stage.strike(&alert);
}
