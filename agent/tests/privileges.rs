//! The privileges that the agent runs with: no more than it uses, and enough of them do without root.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::faults::fd_exhaustion::{FdExhaustion, Kind};
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{MemcgOom, needs_root};
use xtask::receiver::{EACH, Receiver};

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Numbers of capabilities in linux/capability.h.
const DAC_READ_SEARCH: u32 = 2;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;
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
    // Root in a container often lacks the capability, and then nothing may change.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may = u64::from_str_radix(held, 16).unwrap() & (1 << SYS_RESOURCE) != 0;
    let score = |pid: &str| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    let expected = if may { "-500\n".to_owned() } else { score("self") };
    assert_eq!(score(&agent.pid().to_string()), expected, "the OOM killer is asked to choose others first");
    agent.stop(STOP_WITHIN).unwrap();
}

/// The agent at a place that is open to other users, as the build directory need not be.
fn open_to_all() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = directory.path().join("sysops-agent");
    fs::copy(AGENT, &binary).unwrap();
    (directory, binary)
}

/// What runs `binary` as an ordinary user with `capabilities` alone.
fn as_nobody(binary: &Path, capabilities: &[u32]) -> Command {
    let capabilities: Vec<String> = capabilities.iter().map(|bit| format!("+cap_{bit}")).collect();
    let capabilities = capabilities.join(",");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(format!("--inh-caps={capabilities}")).arg(format!("--ambient-caps={capabilities}")).arg(binary);
    command
}

/// Those that are enough.
const FIVE: [u32; 5] = [DAC_READ_SEARCH, SYS_PTRACE, SYSLOG, PERFMON, BPF];

fn without(left_out: u32) -> Vec<u32> {
    FIVE.into_iter().filter(|bit| *bit != left_out).collect()
}

#[test]
fn an_ordinary_user_with_five_capabilities_has_every_probe() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let (_directory, binary) = open_to_all();
    let receiver = Receiver::start().unwrap();
    let config = format!("{EACH}[alerting.webhook]\nenabled = true\nurl = {:?}\n", receiver.url());
    let command = as_nobody(&binary, &FIVE);
    let mut agent = AgentProcess::run(command, &config).unwrap();
    let shown = agent.stdout();
    assert!(shown.contains("without root"), "{shown}");
    // A kernel that cannot probe functions cannot do so for anybody.
    let by_build = ["CONFIG_KPROBE_EVENTS", "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"];
    let by_privilege = |line: &&str| line.contains("better, but") && !by_build.iter().any(|option| line.contains(option));
    assert_eq!(shown.lines().find(by_privilege), None, "{shown}");
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

#[test]
fn doctor_names_each_missing_capability_and_its_cost_is_real() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let (_directory, binary) = open_to_all();
    let restricted = fs::read_to_string("/proc/sys/kernel/dmesg_restrict").unwrap().trim() == "1";
    let closed = fs::metadata("/sys/kernel/tracing").unwrap().permissions().mode() & 0o005 == 0;
    let names = [
        (BPF, "BPF"),
        (PERFMON, "PERFMON"),
        (DAC_READ_SEARCH, "DAC_READ_SEARCH"),
        (SYSLOG, "SYSLOG"),
        (SYS_PTRACE, "SYS_PTRACE"),
    ];
    for (bit, name) in names {
        let said = as_nobody(&binary, &without(bit)).args(["doctor", "--json"]).output().unwrap();
        let doctor: Value = serde_json::from_slice(&said.stdout).unwrap();
        let missing = doctor["missing_capabilities"].as_array().unwrap();
        let told: Vec<&Value> = missing.iter().map(|missing| &missing["capability"]).collect();
        assert_eq!(told, [name, "SYS_ADMIN"], "{doctor:#}");
        assert_eq!(doctor["kernel_log"]["readable"], !(bit == SYSLOG && restricted), "without {name}: {doctor:#}");
        for signal in doctor["signals"].as_array().unwrap() {
            let better = signal["better"].to_string();
            match bit {
                BPF | PERFMON => assert_eq!(signal["probe"], false, "without {name}: {signal:#}"),
                DAC_READ_SEARCH if closed => {
                    assert!(signal["probe"] == true || better.contains("/tracing"), "without {name}: {signal:#}")
                }
                _ => assert_eq!(signal["probe"], true, "without {name}: {signal:#}"),
            }
        }
    }
}

#[test]
fn without_ptrace_the_kinds_of_descriptors_are_not_told() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let (_directory, binary) = open_to_all();
    for (capabilities, told) in [(FIVE.to_vec(), true), (without(SYS_PTRACE), false)] {
        let receiver = Receiver::start().unwrap();
        let config = format!("{EACH}[alerting.webhook]\nenabled = true\nurl = {:?}\n", receiver.url());
        let mut agent = AgentProcess::run(as_nobody(&binary, &capabilities), &config).unwrap();
        let leak = FdExhaustion::cause(Kind::Socket).unwrap();
        let pid = leak.pid.to_string();
        let about = |body: &Value| body["metric"] == "kernel_fd_exhausted" && body["labels"]["pid"] == pid.as_str();
        let alert = receiver.wait_for(Duration::from_secs(15), about).unwrap();
        assert_eq!(alert.body["evidence"]["kinds"].is_object(), told, "{:#}", alert.body);
        assert_eq!(alert.body["value"].as_f64().map(|value| value as u64), Some(leak.limit), "{:#}", alert.body);
        assert_eq!(alert.body["evidence"]["limit"], leak.limit, "{:#}", alert.body);
        agent.stop(STOP_WITHIN).unwrap();
    }
}
