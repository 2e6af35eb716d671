//! The agent's life from outside: how it stops, takes another configuration, and outlasts what its outputs do to it.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use xtask::agent_process::AgentProcess;
use xtask::faults::fd_exhaustion::Kind;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{FdExhaustion, KillOnDrop, needs_root, poll};
use xtask::receiver::{EACH, Receiver};

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
/// A bound against hanging.
const SOON: Duration = Duration::from_secs(15);
/// How long a stop may take: two seconds, and as much again for the kernel of a busy machine, which takes programs out of tracepoints
/// only when each of its CPUs has come by.
const STOP: Duration = Duration::from_secs(4);

fn started(config: &str) -> AgentProcess {
    if rustix::process::geteuid().is_root() {
        mount_tracefs().unwrap();
    }
    AgentProcess::start(Path::new(AGENT), config, &[]).unwrap()
}

/// A webhook that is sent each alert by itself, and nothing else that differs from the defaults.
fn webhook(url: &str) -> String {
    webhook_with("", url)
}

/// The same, with further keys of `[alerting]`.
fn webhook_with(keys: &str, url: &str) -> String {
    format!("{EACH}{keys}[alerting.webhook]\nenabled = true\nurl = {url:?}\nretry_count = 20\nretry_delay_secs = 1\n")
}

fn about(leak: &FdExhaustion) -> impl Fn(&Value) -> bool + use<> {
    let pid = leak.pid.to_string();
    move |body| body["metric"] == "kernel_fd_exhausted" && body["labels"]["pid"] == pid
}

/// How many incidents of it have been told. Each may have several messages, as when polling sees what the probe saw, or sees it first.
fn incidents(receiver: &Receiver, leak: &FdExhaustion) -> usize {
    let about = about(leak);
    let all = receiver.all();
    let ids = all.iter().filter(|received| about(&received.body)).map(|received| received.body["id"].to_string());
    ids.collect::<BTreeSet<_>>().len()
}

/// Waits until the agent's own log or screen shows that it has seen the event.
fn seen(agent: &AgentProcess, leak: &FdExhaustion) {
    let subject = format!("{}", leak.pid);
    let shown = || Ok(agent.stdout().lines().any(|line| line.contains(leak.comm) && line.contains(&subject)).then_some(()));
    poll("the event on the agent's screen", SOON, shown).with_context(|| agent.stdout()).unwrap();
}

/// Ids of the BPF programs that a process holds, by their descriptors (proc_pid_fdinfo(5)).
fn programs_of(pid: u32) -> Vec<u32> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    infos.filter_map(|info| fs::read_to_string(info.unwrap().path()).ok().and_then(id)).collect()
}

/// How many threads of that name a process has.
fn threads_of(pid: u32, name: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let comm = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default();
    tasks.map(comm).filter(|comm| comm.trim_end() == name).count()
}

fn stops(signal: Signal) {
    if needs_root() {
        return;
    }
    let receiver = Receiver::start().unwrap();
    let mut agent = started(&webhook(&receiver.url()));
    let programs = programs_of(agent.pid());
    assert!(programs.len() >= 5, "{programs:?}");
    let leak = FdExhaustion::cause(Kind::Pipe).unwrap();
    seen(&agent, &leak);
    let stopped = agent.stop_with(signal, STOP).unwrap();
    assert_eq!(stopped.status.code(), Some(0));
    assert!(stopped.took < STOP, "{stopped:?}");
    assert_eq!(incidents(&receiver, &leak), 1, "an alert that was on its way is delivered");
    // The kernel frees a program a moment after nobody holds it any more.
    poll("the end of the agent's BPF programs", SOON, || {
        let left = loaded_programs().filter_map(Result::ok).any(|program| programs.contains(&program.id()));
        Ok((!left).then_some(()))
    })
    .unwrap();
}

#[test]
fn sigterm_stops_it() {
    stops(Signal::TERM);
}

#[test]
fn sigint_stops_it() {
    stops(Signal::INT);
}

#[test]
fn a_dead_receiver_does_not_hold_up_the_end() {
    if needs_root() {
        return;
    }
    // Takes connections into its backlog and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut agent = started(&webhook(&format!("http://{}/", silent.local_addr().unwrap())));
    let leak = FdExhaustion::cause(Kind::File).unwrap();
    seen(&agent, &leak);
    agent.stop(STOP).unwrap();
    agent.wait_for_log("alerts were not sent before the agent stopped", SOON).unwrap();
}

#[test]
fn a_receiver_that_comes_later_gets_the_alert() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    // An address where nobody listens yet.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = webhook(&format!("http://{address}/"));
    let mut agent = AgentProcess::start(Path::new(AGENT), &config, &["--log-level", "debug"]).unwrap();
    let leak = FdExhaustion::cause(Kind::Socket).unwrap();
    agent.wait_for_log("not accepted, will be sent again", SOON).unwrap();
    // What waits survives a reload that is about something else.
    agent.reload(&format!("{config}[collector]\ncpu_interval_secs = 5\n")).unwrap();
    agent.wait_for_log("is in force", SOON).unwrap();
    let receiver = Receiver::start_at(address).unwrap();
    let told = receiver.wait_for(SOON, about(&leak)).unwrap();
    let all = receiver.all();
    let first = all.iter().find(|received| received.body["id"] == told.body["id"]).unwrap();
    assert_eq!(first.body["status"], "firing", "the incident is told from its beginning");
    agent.stop(STOP).unwrap();
}

#[test]
fn a_good_configuration_takes_effect_and_a_bad_one_does_not() {
    if needs_root() {
        return;
    }
    let (before, after) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    let mut agent = started(&webhook(&before.url()));
    let programs = programs_of(agent.pid());
    let first = FdExhaustion::cause(Kind::Pipe).unwrap();
    let told = before.wait_for(SOON, about(&first)).unwrap();

    agent.reload("[agent]\nlog_level = 3\n[alerting]\nmin_interval_secs = 0\nx = 1\n").unwrap();
    agent.wait_for_log("the configuration stays as it was", SOON).unwrap();
    for problem in ["log_level", "min_interval_secs", "alerting.x"] {
        agent.wait_for_log(problem, SOON).unwrap();
    }
    let second = FdExhaustion::cause(Kind::Socket).unwrap();
    before.wait_for(SOON, about(&second)).unwrap();

    // The interval is over at once, so what goes on is told of again: to the new receiver, as the same incident.
    let shortened = webhook_with("min_interval_secs = 1\n", &after.url());
    agent.reload(&shortened).unwrap();
    let told_again = after.wait_for(SOON, about(&first)).unwrap();
    assert_eq!((&told_again.body["id"], &told_again.body["status"]), (&told.body["id"], &"updated".into()));
    let third = FdExhaustion::cause(Kind::File).unwrap();
    after.wait_for(SOON, about(&third)).unwrap();
    assert_eq!(incidents(&before, &third), 0);
    assert_eq!(programs_of(agent.pid()), programs, "probes stay attached where only a channel changed");

    // Another set of probes, too; the last of several signals in a row wins.
    for probes in [r#"["oom"]"#, r#"["oom", "fd"]"#, r#"["fd"]"#] {
        agent.reload(&format!("[ebpf]\nprobes = {probes}\n{shortened}")).unwrap();
    }
    poll("one probe's programs", SOON, || {
        let now = programs_of(agent.pid());
        Ok((now.len() < programs.len() && now.iter().all(|id| !programs.contains(id))).then_some(()))
    })
    .unwrap();
    let fourth = FdExhaustion::cause(Kind::Pipe).unwrap();
    after.wait_for(SOON, about(&fourth)).unwrap();
    poll("the end of the threads of earlier configurations", SOON, || {
        Ok(["probes", "collectors"].iter().all(|name| threads_of(agent.pid(), name) == 1).then_some(()))
    })
    .unwrap();
    agent.stop(STOP).unwrap();
}

#[test]
fn a_reload_does_not_wait_for_a_dead_receiver() {
    if needs_root() {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let receiver = Receiver::start().unwrap();
    let mut agent = started(&webhook(&format!("http://{}/", silent.local_addr().unwrap())));
    let leak = FdExhaustion::cause(Kind::File).unwrap();
    seen(&agent, &leak);
    let asked = Instant::now();
    agent.reload(&webhook(&receiver.url())).unwrap();
    agent.wait_for_log("is in force", SOON).unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    // SIGTERM comes while the old channel is still trying.
    agent.stop(STOP).unwrap();
}

#[test]
fn what_needs_a_new_start_is_said() {
    let mut agent = started("");
    agent.reload("[agent]\nhostname = \"other\"\npid_file = \"/nonexistent/pid\"\nlog_level = \"debug\"\n").unwrap();
    for key in ["hostname", "pid_file", "log_level"] {
        agent.wait_for_log(&format!("[agent] {key} takes effect with the next start"), SOON).unwrap();
    }
    agent.stop(STOP).unwrap();
}

#[test]
fn the_pid_file_lives_as_long_as_the_agent() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("agent.pid");
    let config = |path: &Path| format!("[agent]\npid_file = {path:?}\n");
    let mut agent = started(&config(&path));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", agent.pid()));
    agent.stop(STOP).unwrap();
    assert!(!path.exists());
    let error = AgentProcess::start(Path::new(AGENT), &config(&directory.path().join("missing/agent.pid")), &[]).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("exit status: 1") && error.contains("cannot write [agent] pid_file = "), "{error}");
    assert!(error.contains("its directory must exist and be writable: No such file or directory"), "{error}");
}

/// An agent whose output goes into a pipe, with its configuration's directory.
fn piped(stdout: impl Into<Stdio>, stderr: impl Into<Stdio>, config: &str) -> (KillOnDrop, TempDir) {
    let directory = TempDir::new().unwrap();
    let path: PathBuf = directory.path().join("config.toml");
    fs::write(&path, config).unwrap();
    let mut command = Command::new(AGENT);
    command.arg("--config").arg(path).env("NO_PROXY", "127.0.0.1").stdout(stdout).stderr(stderr).process_group(0);
    (KillOnDrop::new(command.spawn().unwrap()), directory)
}

/// The alert arrives and the agent stops in time, whatever its outputs do.
fn goes_on(mut agent: KillOnDrop, receiver: &Receiver) -> Result<()> {
    let leak = FdExhaustion::cause(Kind::Pipe)?;
    receiver.wait_for(SOON, about(&leak))?;
    agent.signal(Signal::TERM)?;
    let status = agent.wait(STOP)?;
    ensure!(status.code() == Some(0), "it stopped with {status}");
    Ok(())
}

#[test]
fn closed_outputs_cost_only_themselves() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let receiver = Receiver::start().unwrap();
    let ((stdout_reader, stdout), (stderr_reader, stderr)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    drop((stdout_reader, stderr_reader));
    let (agent, _directory) = piped(stdout, stderr, &webhook(&receiver.url()));
    goes_on(agent, &receiver).unwrap();
}

#[test]
fn outputs_that_nobody_reads_cost_only_themselves() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let receiver = Receiver::start().unwrap();
    // As in a terminal that was stopped with ^S: both outputs block, from the first byte on.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b' '; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    let config = format!("[agent]\nlog_level = \"trace\"\n{}", webhook(&receiver.url()));
    let (agent, _directory) = piped(writer.try_clone().unwrap(), writer, &config);
    goes_on(agent, &receiver).unwrap();
}
