//! Kernel events without BPF: the same faults, told of by the kernel log, or by its counters where even that is not read.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use xtask::agent_process::AgentProcess;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{FailingDevice, FrozenFilesystem, MemcgOom, needs_root, poll};
use xtask::receiver::{Received, Receiver};

/// A bound against hanging.
const SOON: Duration = Duration::from_secs(20);
const OOM_BYTES: u64 = 16 << 20;

const NO_BPF: &str = "[ebpf]\nenabled = false\n";
const NO_LOG: &str = "[log_analyzer]\nenabled = false\n";

struct Watched {
    agent: AgentProcess,
    receiver: Receiver,
}

impl Watched {
    /// Starts an agent and waits until it has read the kernel's counters once.
    fn start(sources: &str) -> Self {
        mount_tracefs().unwrap();
        let receiver = Receiver::start().unwrap();
        let config = format!(
            "[agent]\ncollect_interval_secs = 1\n[alerting]\nmin_interval_secs = 1\n\
             [alerting.webhook]\nenabled = true\nurl = {:?}\n{sources}",
            receiver.url()
        );
        let agent = AgentProcess::start(Path::new(env!("CARGO_BIN_EXE_sysops-agent")), &config, &[]).unwrap();
        let descriptors = format!("/proc/{}/fd", agent.pid());
        // The file that the collector of the counters opens last, and keeps open.
        let last = Path::new("/proc/sys/kernel/random/entropy_avail");
        poll("a first reading of the kernel's counters", SOON, || {
            let mut links = fs::read_dir(&descriptors)?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            Ok(links.any(|link| link == last).then_some(()))
        })
        .unwrap();
        Self { agent, receiver }
    }

    fn wait_for(&self, accept: impl Fn(&Value) -> bool) -> Value {
        self.receiver.wait_for(SOON, accept).unwrap().body
    }

    fn stop(mut self) -> Vec<Received> {
        self.agent.stop(Duration::from_secs(2)).unwrap();
        self.receiver.all()
    }
}

/// Whether a message tells of the end of this victim.
fn names(oom: &MemcgOom) -> impl Fn(&Value) -> bool + use<> {
    let pid = oom.pid.to_string();
    move |body| body["metric"] == "kernel_oom_kill" && body["labels"]["pid"] == pid
}

/// Whether a message tells of a victim that nobody can name.
fn is_unconfirmed(body: &Value) -> bool {
    body["metric"] == "kernel_oom_kill" && body["labels"].get("pid").is_none()
}

#[test]
fn one_oom_kill_is_one_alert_whatever_saw_it() {
    if needs_root() {
        return;
    }
    let probed = Watched::start("");
    let logged = Watched::start(NO_BPF);
    let counted = Watched::start(&[NO_BPF, NO_LOG].concat());
    let oom = MemcgOom::cause(OOM_BYTES).unwrap();

    let by_log = logged.wait_for(names(&oom));
    assert_eq!((&by_log["status"], &by_log["severity"]), (&"firing".into(), &"critical".into()));
    assert_eq!(by_log["labels"]["comm"], oom.comm);
    assert_eq!(by_log["labels"]["cgroup"], oom.cgroup);
    assert_eq!(by_log["evidence"]["source"], "kmsg");
    assert_eq!(by_log["evidence"]["constraint"], "memcg");
    assert!(by_log["evidence"]["anon_rss_kb"].as_u64().unwrap() > 0, "{by_log}");

    let by_probe = probed.wait_for(names(&oom));
    assert_eq!(by_probe["labels"], by_log["labels"], "one identity, whoever tells of it");

    let by_counter = counted.wait_for(is_unconfirmed);
    assert_eq!(by_counter["status"], "firing");
    assert!(by_counter["message"].as_str().unwrap().starts_with("OOM kill unconfirmed: "), "{by_counter}");
    assert_eq!(by_counter["evidence"]["counter"], "kernel_oom_kills_total");

    // A second one that even the slowest source has told of: by then, each has said all about the first.
    let second = MemcgOom::cause(OOM_BYTES).unwrap();
    counted.wait_for(|body| is_unconfirmed(body) && body["status"] == "updated");
    logged.wait_for(names(&second));
    probed.wait_for(names(&second));
    for received in [probed.stop(), logged.stop()] {
        let about = |oom: &MemcgOom| received.iter().filter(|received| names(oom)(&received.body)).count();
        assert_eq!((about(&oom), about(&second)), (1, 1), "{received:#?}");
        assert!(!received.iter().any(|received| is_unconfirmed(&received.body)), "{received:#?}");
    }
    let received = counted.stop();
    let firing = received.iter().filter(|received| is_unconfirmed(&received.body) && received.body["status"] == "firing");
    assert_eq!(firing.count(), 1, "{received:#?}");
}

#[test]
fn a_failed_block_request_is_told_of_by_the_log() {
    if needs_root() {
        return;
    }
    let watched = Watched::start(NO_BPF);
    let device = FailingDevice::attach().unwrap();
    let request = device.read().unwrap();
    let alert = watched.wait_for(|body| body["metric"] == "kernel_block_io_error" && body["labels"]["device"] == device.name());
    assert_eq!(alert["severity"], "critical");
    assert_eq!(alert["labels"]["operation"], "read");
    assert_eq!(alert["evidence"]["sector"], request.sector);
    assert_eq!(alert["evidence"]["source"], "kmsg");
    watched.stop();
}

#[test]
fn a_hung_task_is_told_of_by_the_log() {
    if needs_root() {
        return;
    }
    let watched = Watched::start(NO_BPF);
    let frozen = FrozenFilesystem::freeze(Duration::from_secs(1)).unwrap();
    let pid = frozen.pid.to_string();
    let alert = watched.wait_for(|body| body["metric"] == "kernel_hung_task" && body["labels"]["pid"] == pid);
    assert_eq!(alert["labels"]["comm"], frozen.comm);
    assert_eq!(alert["value"].as_f64(), Some(frozen.timeout.as_secs_f64()));
    assert_eq!(alert["evidence"]["source"], "kmsg");
    frozen.thaw().unwrap();
    watched.stop();
}
