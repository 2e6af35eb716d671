//! The privileges that the agent runs with: no more than it uses, and enough of them do without root.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{MemcgOom, needs_root};
use xtask::receiver::Receiver;

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Numbers of capabilities in linux/capability.h.
const DAC_READ_SEARCH: u32 = 2;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYSLOG: u32 = 34;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// The values of a key in the status of all threads of a process.
fn of_all_threads(agent: &AgentProcess, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let values = tasks.map(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t")).unwrap().to_owned()
    });
    values.collect()
}

#[test]
fn root_keeps_what_it_uses_and_can_gain_nothing() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let mut agent = AgentProcess::start(Path::new(AGENT), "", &[]).unwrap();
    let used: u64 = [DAC_READ_SEARCH, SYS_PTRACE, SYS_ADMIN, SYSLOG, PERFMON, BPF].iter().map(|bit| 1 << bit).sum();
    for key in ["CapPrm", "CapEff", "CapBnd"] {
        for bits in of_all_threads(&agent, key) {
            let bits = u64::from_str_radix(&bits, 16).unwrap();
            assert_eq!(bits & !used, 0, "{key} {bits:x}");
        }
    }
    assert!(of_all_threads(&agent, "NoNewPrivs").iter().all(|value| value == "1"));
    agent.stop(STOP_WITHIN).unwrap();
}

#[test]
fn an_ordinary_user_with_five_capabilities_has_every_probe() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    // The build directory need not be open to other users.
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("sysops-agent");
    fs::copy(AGENT, &binary).unwrap();
    let receiver = Receiver::start().unwrap();
    let config = format!("[alerting.webhook]\nenabled = true\nurl = {:?}\n", receiver.url());
    let capabilities = [DAC_READ_SEARCH, SYS_PTRACE, SYSLOG, PERFMON, BPF].map(|bit| format!("+cap_{bit}")).join(",");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(format!("--inh-caps={capabilities}")).arg(format!("--ambient-caps={capabilities}")).arg(&binary);
    let mut agent = AgentProcess::run(command, &config).unwrap();
    let shown = agent.stdout();
    assert!(shown.contains("without root") && !shown.contains("better, but"), "{shown}");
    let oom = MemcgOom::cause(16 << 20).unwrap();
    let pid = oom.pid.to_string();
    let alert = receiver
        .wait_for(Duration::from_secs(15), |body| body["metric"] == "kernel_oom_kill" && body["labels"]["pid"] == pid.as_str())
        .unwrap();
    let evidence = &alert.body["evidence"];
    assert_eq!(evidence["source"], "tracepoint oom/mark_victim", "{:#}", alert.body);
    assert_eq!(evidence["constraint"], "memcg", "{:#}", alert.body);
    agent.stop(STOP_WITHIN).unwrap();
}
