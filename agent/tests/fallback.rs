//! Kernel events without BPF: the same faults, told of by the kernel log, by polling, or by counters where nothing else is read.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::agent_process::AgentProcess;
use xtask::faults::fd_exhaustion::Kind;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{FailingDevice, FdExhaustion, FrozenFilesystem, MemcgOom, SlowDevice, TcpLoss, VforkWait, needs_root, poll};
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
        Self::forgetting(sources, Duration::from_secs(600))
    }

    /// The same; an incident of which nothing was heard for `silence` is over.
    fn forgetting(sources: &str, silence: Duration) -> Self {
        mount_tracefs().unwrap();
        let receiver = Receiver::start().unwrap();
        let config = format!(
            "[agent]\ncollect_interval_secs = 1\n[alerting]\nmin_interval_secs = 1\ndedup_window_secs = {}\n\
             max_alerts_per_minute = 1000\nmax_alerts_per_hour = 1000\nmax_alerts_per_hour_overall = 1000\n\
             [alerting.grouping]\nenabled = false\n\
             [collector]\nprocess_interval_secs = 1\nfd_interval_secs = 1\nnetwork_interval_secs = 1\n\
             [alerting.webhook]\nenabled = true\nurl = {:?}\n{sources}",
            silence.as_secs(),
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
        self.agent.stop(Duration::from_secs(15)).unwrap();
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
    for (fact, value) in [
        ("limit_bytes", json!(oom.limit_bytes)),
        ("killed", json!(true)),
        ("trigger_pid", json!(oom.pid)),
        ("witnesses", json!(["kmsg"])),
    ] {
        assert_eq!(by_log["evidence"][fact], value, "{fact}: {by_log}");
    }

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
fn probe_log_and_counter_agree_on_an_oom_kill() {
    if needs_root() {
        return;
    }
    let watched = Watched::forgetting("", Duration::from_secs(8));
    // Nothing is expected of a log that was opened a moment ago; when the first is over, that moment is, too.
    for _ in 0..2 {
        let oom = MemcgOom::cause(OOM_BYTES).unwrap();
        let over = watched.wait_for(|body| names(&oom)(body) && body["status"] == "resolved");
        assert_eq!(over["evidence"]["witnesses"], json!(["counter", "kmsg", "probe"]), "{over}");
    }
    let received = watched.stop();
    let about: Vec<_> = received.iter().filter(|received| received.body["metric"] == "kernel_oom_kill").collect();
    assert!(about.iter().all(|received| received.body["evidence"].get("disagreement").is_none()), "{about:#?}");
    assert!(!about.iter().any(|received| is_unconfirmed(&received.body)), "{about:#?}");
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
    assert_eq!(alert["evidence"]["error"], "EIO");
    assert_eq!(alert["evidence"]["source"], "kmsg");
    watched.stop();
}

/// The alert about the task `pid`.
fn hung(pid: u32) -> impl Fn(&Value) -> bool {
    let pid = pid.to_string();
    move |body| body["metric"] == "kernel_hung_task" && body["labels"]["pid"] == pid
}

/// What the probe would have found out about a blocked task.
fn assert_explained(alert: &Value, frozen: &FrozenFilesystem) {
    let evidence = &alert["evidence"];
    assert_eq!(evidence["command_line"], frozen.command_line, "{alert}");
    assert_eq!(evidence["wchan"], frozen.wchan().unwrap(), "{alert}");
    assert_eq!(evidence["state"], "D (disk sleep)", "{alert}");
    assert!(evidence["stack"].as_array().is_some_and(|stack| !stack.is_empty()), "{alert}");
}

#[test]
fn a_hung_task_is_told_of_by_log_and_polling() {
    if needs_root() {
        return;
    }
    let (both, polling) = (Watched::start(NO_BPF), Watched::start(&[NO_BPF, NO_LOG].concat()));
    let frozen = FrozenFilesystem::freeze(Duration::from_secs(2)).unwrap();
    for watched in [&both, &polling] {
        let alert = watched.wait_for(hung(frozen.pid));
        assert_eq!((&alert["status"], &alert["labels"]["comm"]), (&json!("firing"), &json!(frozen.comm)));
        assert!(alert["value"].as_f64().unwrap() >= frozen.timeout.as_secs_f64(), "{alert}");
        assert_explained(&alert, &frozen);
    }
    // Who was first is a matter of a moment; both have told by the time that the incident goes on.
    let witnesses = json!(["counter", "kmsg", "poll"]);
    both.wait_for(|body| hung(frozen.pid)(body) && body["evidence"]["witnesses"] == witnesses);
    frozen.thaw().unwrap();
    polling.stop();
    let firing = |received: &&Received| hung_is_firing(&received.body);
    assert_eq!(both.stop().iter().filter(firing).count(), 1);
}

fn hung_is_firing(body: &Value) -> bool {
    body["metric"] == "kernel_hung_task" && body["status"] == "firing"
}

#[test]
fn a_wait_in_vfork_is_found_by_polling_whether_there_is_a_probe_or_not() {
    if needs_root() {
        return;
    }
    let (polling, probed) = (Watched::start(NO_BPF), Watched::start(""));
    let wait = VforkWait::block(Duration::from_secs(2)).unwrap();
    for (watched, probe) in [(&polling, Value::Null), (&probed, json!("did not report this"))] {
        let alert = watched.wait_for(hung(wait.pid));
        assert_eq!(alert["labels"]["comm"], wait.comm);
        assert_eq!((&alert["evidence"]["witnesses"], &alert["evidence"]["probe"]), (&json!(["poll"]), &probe), "{alert}");
        assert!(alert["evidence"]["stack"].to_string().contains("vfork") || alert["evidence"]["syscall"].is_u64(), "{alert}");
    }
    drop(wait);
    polling.stop();
    probed.stop();
}

#[test]
fn slow_requests_show_in_the_mean() {
    if needs_root() {
        return;
    }
    let (polling, probed) = (Watched::start(NO_BPF), Watched::start(""));
    let mut device = SlowDevice::attach().unwrap();
    let name = device.name().to_owned();
    let about = |body: &Value| body["metric"] == "kernel_block_io_slow" && body["labels"]["device"] == name;
    let held = Duration::from_millis(400);
    device.write(held).unwrap();
    let alert = polling.wait_for(about);
    assert_eq!(alert["labels"]["operation"], "write");
    assert!(alert["value"].as_f64().unwrap() >= 360.0, "{alert}");
    assert_eq!((&alert["evidence"]["latency_is"], &alert["evidence"]["requests"]), (&json!("mean"), &json!(1)));
    let by_probe = probed.wait_for(about);
    assert_eq!(
        (&by_probe["labels"], &by_probe["status"]),
        (&alert["labels"], &json!("firing")),
        "one identity, whoever tells of it"
    );
    polling.stop();
    probed.stop();
}

#[test]
fn requests_that_do_not_end_are_found_by_polling_whether_there_is_a_probe_or_not() {
    if needs_root() {
        return;
    }
    let (polling, probed) = (Watched::start(NO_BPF), Watched::start(""));
    let mut device = SlowDevice::attach().unwrap();
    let name = device.name().to_owned();
    let about = |body: &Value| body["metric"] == "kernel_block_io_slow" && body["labels"]["device"] == name;
    thread::scope(|scope| {
        // Longer than the other sources are waited for where there is a probe.
        scope.spawn(|| device.write(Duration::from_secs(8)).unwrap());
        for (watched, probe) in [(&polling, Value::Null), (&probed, json!("did not report this"))] {
            let alert = watched.wait_for(about);
            assert_eq!((&alert["labels"]["operation"], &alert["evidence"]["in_flight"]), (&json!("write"), &json!(1)), "{alert}");
            assert_eq!(alert["evidence"]["probe"], probe, "{alert}");
        }
    });
    polling.stop();
    probed.stop();
}

#[test]
fn a_process_without_descriptors_is_found_by_polling() {
    if needs_root() {
        return;
    }
    let watched = Watched::start(NO_BPF);
    let leak = FdExhaustion::cause(Kind::Socket).unwrap();
    let pid = leak.pid.to_string();
    let alert = watched.wait_for(|body| body["metric"] == "kernel_fd_exhausted" && body["labels"]["pid"] == pid);
    assert_eq!((&alert["labels"]["comm"], &alert["severity"]), (&json!(leak.comm), &json!("critical")));
    assert_eq!((alert["value"].as_f64(), alert["evidence"]["limit"].as_u64()), (Some(leak.open as f64), Some(leak.limit)));
    assert_eq!(alert["evidence"]["kinds"]["socket"], leak.of_kind);
    assert_eq!(alert["evidence"]["witnesses"], json!(["poll"]));
    watched.stop();
}

/// A view of procfs in which the namespaces of whoever looks are those of the host.
fn own_namespaces() -> tempfile::TempDir {
    let view = tempfile::tempdir().unwrap();
    for entry in fs::read_dir("/proc").unwrap().map(Result::unwrap) {
        if !entry.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            symlink(entry.path(), view.path().join(entry.file_name())).unwrap();
        }
    }
    view
}

#[test]
fn lost_tcp_segments_are_found_by_polling() {
    if needs_root() {
        return;
    }
    // A network of this thread's own: what it starts has its counters for itself.
    // SAFETY: the descriptors of the process stay shared; only what this thread opens from here on is elsewhere.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let view = own_namespaces();
    let watched = Watched::start(&format!("[host]\nprocfs = '{}'\n{NO_BPF}tcp_retransmit_burst = 3\n", view.path().display()));
    let loss = TcpLoss::establish_from_here().unwrap();
    symlink(format!("/proc/{}", loss.pid), view.path().join(loss.pid.to_string())).unwrap();
    loss.lose(9).unwrap();
    let (local, peer) = (loss.local.to_string(), loss.peer.to_string());
    let alert = watched.wait_for(|body| body["metric"] == "kernel_tcp_retransmit" && body["labels"]["peer"] == peer);
    assert_eq!((&alert["labels"]["local"], &alert["severity"]), (&json!(local), &json!("warn")));
    assert_eq!((&alert["labels"]["pid"], &alert["labels"]["comm"]), (&json!(loss.pid.to_string()), &json!(loss.comm)), "{alert}");
    assert!(alert["evidence"]["rose_by"].as_f64().unwrap() >= 3.0, "{alert}");
    assert_eq!(alert["evidence"]["witnesses"], json!(["poll"]));
    watched.stop();
}
