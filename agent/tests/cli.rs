//! The command line as its users meet it: the real binary, what it prints, and its exit status.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::faults::fd_exhaustion::Kind;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{FdExhaustion, needs_root};
use xtask::receiver::{EACH, Receiver};

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
const SIGNALS: [&str; 5] = ["oom", "hung_task", "block_io", "tcp_retransmit", "fd"];

/// What a run left behind.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn outcome(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn agent(arguments: &[&str]) -> Said {
    outcome(Command::new(AGENT).args(arguments))
}

/// A directory that any user may read.
fn directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn file(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// The signals and the exit status of `doctor --json` with this configuration.
fn examined(config: &str) -> (Vec<Value>, Option<i32>) {
    let directory = directory();
    let config = file(&directory, "config.toml", config);
    let said = agent(&["doctor", "--json", "--config", config.to_str().unwrap()]);
    assert_eq!(said.stderr, "");
    (signals(&said.stdout), said.code)
}

fn signals(report: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(report).unwrap();
    let signals = report["signals"].as_array().unwrap().clone();
    let names: Vec<&str> = signals.iter().map(|signal| signal["signal"].as_str().unwrap()).collect();
    assert_eq!(names, SIGNALS);
    for better in signals.iter().flat_map(|signal| signal["better"].as_array().unwrap()) {
        let said = |key: &str| !better[key].as_str().unwrap().is_empty();
        assert!(said("why") && said("advice"), "{better}");
    }
    signals
}

/// Why the first better source of a signal is not active.
fn why(signal: &Value) -> &str {
    signal["better"][0]["why"].as_str().unwrap_or_else(|| panic!("nothing better is named: {signal}"))
}

#[test]
fn it_tells_its_version_and_options() {
    let version = agent(&["--version"]);
    assert_eq!((version.code, version.stdout.as_str()), (Some(0), concat!("sysops-agent ", env!("CARGO_PKG_VERSION"), "\n")));
    let help = agent(&["--help"]);
    assert_eq!(help.code, Some(0));
    for option in ["--config <PATH>", "--log-level <LEVEL>", "--validate", "--probe-log", "doctor", "Exit status: 0"] {
        assert!(help.stdout.contains(option), "{}", help.stdout);
    }
}

#[test]
fn wrong_arguments_are_refused_with_what_would_be_right() {
    for (arguments, right) in [(["--log-level", "loud"], "error, warn, info, debug, trace"), (["--confg", "x"], "--config")] {
        let said = agent(&arguments);
        assert_eq!(said.code, Some(2));
        assert!(said.stderr.contains(right), "{}", said.stderr);
    }
}

#[test]
fn shipped_configurations_are_good() {
    for name in ["config.toml", "minimal.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
        let said = agent(&["--validate", "--config", path.to_str().unwrap()]);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
        assert_eq!(said.stdout, format!("{}: good\n", path.display()));
    }
}

#[test]
fn all_problems_of_a_bad_configuration_are_listed_with_their_places() {
    let directory = directory();
    let path =
        file(&directory, "bad.toml", "[agent]\nlog_levle = \"info\"\n[thresholds]\ncpu_percent = 140\nfd_percent = \"x\"\n");
    for arguments in [&["--validate"][..], &[], &["doctor"]] {
        let said = agent(&[arguments, &["--config", path.to_str().unwrap()]].concat());
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        for (line, key) in [(2, "log_levle"), (4, "cpu_percent"), (5, "fd_percent")] {
            let place = format!("{}:{line}: ", path.display());
            assert!(said.stderr.lines().any(|line| line.contains(&place) && line.contains(key)), "{place}{key}: {}", said.stderr);
        }
        assert!(said.stderr.contains("log_level"), "no suggestion: {}", said.stderr);
    }
}

#[test]
fn without_its_configuration_it_says_what_to_do() {
    for arguments in [&["--validate"][..], &[], &["doctor"]] {
        let said = agent(&[arguments, &["--config", "/nonexistent/config.toml"]].concat());
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
        let sentence = "/nonexistent/config.toml: cannot read the configuration: No such file or directory (os error 2); name an";
        assert!(said.stderr.contains(sentence) && said.stderr.contains("--config"), "{}", said.stderr);
    }
}

#[test]
fn what_this_version_lacks_is_named() {
    let directory = directory();
    let webhook = "[alerting.webhook]\nenabled = true\nurl = \"http://127.0.0.1:1/hunter2\"\n";
    let lacking = format!("{webhook}[thresholds]\noverrides = [{{ metric = \"disk_usage\" }}]\n");
    let path = file(&directory, "config.toml", &lacking);
    let path = path.to_str().unwrap();
    let validated = agent(&["--validate", "--config", path]);
    assert_eq!(validated.code, Some(0));
    assert!(validated.stdout.contains("there is no metric \"disk_usage\""), "{}", validated.stdout);
    let examined = agent(&["doctor", "--config", path]);
    assert!(examined.stdout.contains("there is no metric \"disk_usage\""), "{}", examined.stdout);
    let running = AgentProcess::start(Path::new(AGENT), &lacking, &[]).unwrap();
    running.wait_for_log("there is no metric \"disk_usage\"", Duration::from_secs(5)).unwrap();
    for text in [validated.stdout, examined.stdout, running.stdout(), running.stderr()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn every_signal_has_its_probe_on_a_kernel_that_can() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let (signals, code) = examined("");
    assert_eq!(code, Some(0));
    for signal in &signals {
        assert_eq!(signal["probe"], true, "{signal}");
        assert!(signal["source"].as_str().unwrap().contains("tracepoint"), "{signal}");
    }
    let table = agent(&["doctor"]);
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""));
    for name in SIGNALS {
        let prefix = format!("  {name} ");
        assert!(table.stdout.lines().any(|line| line.starts_with(&prefix) && line.contains("tracepoint")), "{}", table.stdout);
    }
    assert!(!table.stdout.contains('\x1b'), "colour where there is no terminal");
}

#[test]
fn an_unprivileged_user_is_told_what_is_missing_and_what_stands_in() {
    let directory = directory();
    // Wherever the binary is built may be closed to others.
    let binary = directory.path().join("sysops-agent");
    fs::copy(AGENT, &binary).unwrap();
    let command = || {
        let mut command = Command::new(&binary);
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        command
    };
    let said = outcome(command().args(["doctor", "--json"]));
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "every signal has a source without root, too");
    for signal in signals(&said.stdout) {
        assert_eq!(signal["probe"], false, "{signal}");
        assert!(signal["source"].as_str().unwrap().contains("/proc/"), "{signal}");
        let advice = signal["better"][0]["advice"].as_str().unwrap();
        let refused = ["Permission denied", "Operation not permitted"].iter().any(|reason| why(&signal).contains(reason));
        let unmounted = why(&signal).contains("tracefs is mounted neither");
        assert!(refused && advice.contains("root, or with CAP_") || unmounted && advice.contains("mount -t tracefs"), "{signal}");
    }
    let table = outcome(command().arg("doctor"));
    assert!(table.stdout.matches("better, but: ").count() >= SIGNALS.len(), "{}", table.stdout);
    let mut running = AgentProcess::run(command(), "").unwrap();
    assert!(running.stdout().lines().next().unwrap().ends_with("without root"), "{}", running.stdout());
    running.stop(Duration::from_secs(2)).unwrap();
}

#[test]
fn the_reason_is_the_true_one() {
    let (signals, code) = examined("[ebpf]\nenabled = false\n");
    assert_eq!(code, Some(0));
    for signal in &signals {
        assert_eq!(
            (why(signal), &signal["better"][0]["advice"]),
            ("BPF is switched off", &"set enabled = true in [ebpf]".into())
        );
    }
    let (signals, _) = examined("[ebpf]\nprobes = [\"oom\"]\n[log_analyzer]\nsources = [\"journal\"]\n");
    for signal in signals.iter().filter(|signal| signal["signal"] != "oom") {
        assert_eq!(why(signal), "the probe is not in [ebpf] probes = [\"oom\"]");
        assert_eq!(signal["better"][0]["advice"], format!("add {} to it", signal["signal"]));
    }
    assert_eq!(signals[1]["better"][1]["why"], "the kernel log is switched off");
    let empty = directory();
    let (signals, _) = examined(&format!("[host]\nsysfs = {:?}\n", empty.path()));
    for signal in &signals {
        let expected = format!("tracefs is mounted neither at {}/kernel/tracing", empty.path().display());
        let better = signal["better"].as_array().unwrap();
        assert!(better.iter().any(|better| better["why"].as_str().unwrap().starts_with(&expected)), "{signal}");
    }
}

#[test]
fn a_signal_without_any_source_is_a_failure() {
    let empty = directory();
    let (signals, code) = examined(&format!("[host]\nprocfs = {0:?}\nsysfs = {0:?}\nrootfs = {0:?}\n", empty.path()));
    assert_eq!(code, Some(1));
    for signal in &signals {
        assert_eq!(signal["source"], Value::Null);
        let expected = format!("cannot read {}/", empty.path().display());
        let better = signal["better"].as_array().unwrap();
        assert!(better.iter().any(|better| better["why"].as_str().unwrap().starts_with(&expected)), "{signal}");
    }
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let directory = directory();
    let config = file(&directory, "config.toml", "[ebpf]\nenabled = false\n");
    for arguments in [&["--validate"][..], &["doctor"], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(AGENT);
        let output = command.args(arguments).arg("--config").arg(&config).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn secrets_appear_nowhere() {
    if needs_root() {
        return;
    }
    const TOKENS: [(&str, &str); 3] =
        [("TEST_PATH", "hunter2path"), ("TEST_HEADER", "hunter2header"), ("TEST_USER", "hunter2user")];
    let with_tokens = |arguments: &[&str]| {
        let mut command = Command::new(AGENT);
        command.args(arguments).envs(TOKENS);
        command
    };
    let receiver = Receiver::start().unwrap();
    let webhook = |origin: &str, delay: u32| {
        format!(
            "{EACH}[alerting.webhook]\nenabled = true\nurl = \"http://ops:${{TEST_USER}}@{origin}hook/${{TEST_PATH}}?key=${{TEST_PATH}}\"\n\
             headers = {{ X-Token = \"Bearer ${{TEST_HEADER}}\" }}\nretry_count = 1\nretry_delay_secs = {delay}\n"
        )
    };
    let origin = receiver.url().replace("http://", "");
    let directory = directory();
    // The second one is bad in the very values that are secret.
    let good = webhook(&origin, 1);
    let bad = good.replace("http://ops", "ftp://ops").replace("${TEST_HEADER}", "${TEST_HEADER}\\n");
    let mut said = Vec::new();
    for (name, text) in [("good.toml", &good), ("bad.toml", &bad)] {
        let path = file(&directory, name, text);
        for arguments in [&["--validate"][..], &["doctor"], &["doctor", "--json"]] {
            let Said { stdout, stderr, code } = outcome(with_tokens(arguments).arg("--config").arg(&path));
            assert_eq!(code, Some(if name == "good.toml" { 0 } else { 1 }), "{stdout}{stderr}");
            said.push(stdout + &stderr);
        }
    }
    let mut agent = AgentProcess::run(with_tokens(&["--log-level", "trace"]), &good).unwrap();
    let leak = FdExhaustion::cause(Kind::Pipe).unwrap();
    let pid = leak.pid.to_string();
    let arrived = receiver.wait_for(Duration::from_secs(15), |body| body["labels"]["pid"] == pid).unwrap();
    assert_eq!(arrived.header("x-token"), Some("Bearer hunter2header"), "the secrets were in use");
    assert_eq!(arrived.path, "/hook/hunter2path?key=hunter2path");
    agent.reload(&bad).unwrap();
    agent.wait_for_log("the configuration stays as it was", Duration::from_secs(10)).unwrap();
    // Nobody listens on the port of TCP's port multiplexer.
    agent.reload(&webhook("127.0.0.1:1/", 1)).unwrap();
    agent.wait_for_log("is in force", Duration::from_secs(10)).unwrap();
    let _second = FdExhaustion::cause(Kind::Socket).unwrap();
    agent.wait_for_log("not accepted in 2 attempts", Duration::from_secs(20)).unwrap();
    agent.stop(Duration::from_secs(2)).unwrap();
    said.extend([agent.stdout(), agent.stderr()]);
    for text in said {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
