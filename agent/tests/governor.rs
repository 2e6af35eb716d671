//! The agent costs more than its budget: it sheds work step by step, says so, and takes it all back.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use xtask::agent_process::AgentProcess;
use xtask::faults::needs_root;
use xtask::faults::trace::mount_tracefs;
use xtask::receiver::Receiver;

/// A bound against hanging: three intervals of a second for each step, and six for each way back, on a busy host.
const SOON: Duration = Duration::from_secs(90);

/// With collectors that work each second, there is no way to run within the least budget that can be configured.
fn config(receiver: &Receiver, cpu_budget_percent: f64) -> String {
    format!(
        "[agent]\ncollect_interval_secs = 1\ncpu_budget_percent = {cpu_budget_percent:?}\nmemory_budget_mb = 1024\n\
         [collector]\ncpu_interval_secs = 1\nmemory_interval_secs = 1\nnetwork_interval_secs = 1\nprocess_interval_secs = 1\n\
         [ebpf]\nprobes = [\"oom\", \"block_io\"]\n\
         [alerting]\nmax_alerts_per_minute = 1000\n[alerting.grouping]\nenabled = false\n\
         [alerting.webhook]\nenabled = true\nmin_severity = \"info\"\nurl = {:?}\n",
        receiver.url()
    )
}

fn overhead(body: &Value) -> bool {
    body["metric"] == "agent_overhead" && body["labels"]["resource"] == "cpu"
}

#[test]
fn work_is_shed_over_the_budget_and_taken_back_within_it() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let receiver = Receiver::start().unwrap();
    let agent = Path::new(env!("CARGO_BIN_EXE_sysops-agent"));
    let mut agent = AgentProcess::start(agent, &config(&receiver, 0.1), &[]).unwrap();
    let steps = [
        ("firing", "looks at one block request in 10", "estimates from one request in 10,"),
        ("updated", "looks at one block request in 100", "estimates from one request in 100,"),
        ("updated", "collects metrics 2 times as rarely", "up to 2 times as late"),
        ("updated", "collects metrics 4 times as rarely", "up to 4 times as late"),
        ("updated", "takes the probe block_io out of the kernel", "the signal block_io has only what stands in for it"),
    ];
    for (level, (status, step, costs)) in (1u64..).zip(steps) {
        let alert = receiver.wait_for(SOON, |body| overhead(body) && body["evidence"]["level"] == level).unwrap();
        let (body, evidence) = (&alert.body, &alert.body["evidence"]);
        assert_eq!((&body["status"], &body["severity"]), (&status.into(), &"info".into()), "{body:#}");
        assert_eq!((&evidence["step"], &evidence["budget"]), (&step.into(), &0.1.into()), "{body:#}");
        assert!(evidence["costs"].as_str().unwrap().contains(costs), "{body:#}");
        assert!(evidence["measured"].as_f64().unwrap() > 0.1, "{body:#}");
        assert!(body["message"].as_str().unwrap().contains(step), "{body:#}");
    }
    agent.wait_for_log("probe block_io is taken out to save work; its signal is now served by: kernel log", SOON).unwrap();

    agent.reload(&config(&receiver, 100.0)).unwrap();
    agent.wait_for_log("probe block_io is attached: ", SOON).unwrap();
    let over = receiver.wait_for(SOON, |body| overhead(body) && body["status"] == "resolved").unwrap();
    assert_eq!(over.body["evidence"]["level"], 0, "{:#}", over.body);
    let all = receiver.all();
    let levels: Vec<u64> =
        all.iter().filter(|alert| overhead(&alert.body)).map(|alert| alert.body["evidence"]["level"].as_u64().unwrap()).collect();
    assert_eq!(levels, [1, 2, 3, 4, 5, 4, 3, 2, 1, 0]);
    let ids: Vec<&Value> = all.iter().filter(|alert| overhead(&alert.body)).map(|alert| &alert.body["id"]).collect();
    assert!(ids.iter().all(|id| **id == over.body["id"]), "one incident: {ids:?}");
    agent.stop(Duration::from_secs(15)).unwrap();
}
