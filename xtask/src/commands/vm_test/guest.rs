//! Inside the virtual machine: this program is its first process, causes the faults, and reports what the agent made of them.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use serde_json::{Value, json};
use xtask::agent_process::AgentProcess;
use xtask::faults::poll;
use xtask::receiver::{Received, Receiver};

use super::cells::Cell;
use super::modes::{MODES, Mode, signals};

/// The second serial port; the first is the kernel's console.
const REPORT: &str = "/dev/ttyS1";
const AGENT: &str = "/bin/sysops-agent";
/// How long an alert may take here, where a processor is emulated. The agent polls every second.
const ALERT_WITHIN: Duration = Duration::from_secs(12);
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What every start of the agent has in common: nothing is grouped and no rate limit is near, so that each event can be asserted
/// on; what stands in for probes is read often; and an emulated processor is no reason to do less.
const CONFIG: &str = "
[agent]
collect_interval_secs = 1
cpu_budget_percent = 100
data_dir = '/nonexistent'
[collector]
memory_interval_secs = 1
network_interval_secs = 1
process_interval_secs = 1
fd_interval_secs = 1
[alerting]
max_alerts_per_minute = 1000
max_alerts_per_hour = 1000
max_alerts_per_hour_overall = 1000
";

/// Does the machine's work and switches it off.
///
/// # Errors
/// When this is no virtual machine that was started for it.
pub fn run() -> Result<()> {
    ensure!(
        std::process::id() == 1,
        "this is the first process of a virtual machine that `cargo xtask vm-test` starts, and nothing else"
    );
    if let Err(error) = examine() {
        // The console is what the host quotes where the report has no end.
        eprintln!("vm-guest: {error:#}");
    }
    rustix::fs::sync();
    reboot(RebootCommand::PowerOff).context("cannot switch the machine off")
}

fn examine() -> Result<()> {
    mount_all()?;
    // The kernel loads a module when its device is opened; here nobody has made the nodes of loop devices.
    for preparation in [&["ip", "link", "set", "lo", "up"][..], &["modprobe", "loop"]] {
        let status = Command::new(preparation[0]).args(&preparation[1..]).status();
        ensure!(status.is_ok_and(|status| status.success()), "cannot run `{}`", preparation.join(" "));
    }
    let mut report = Report(File::options().write(true).open(REPORT).with_context(|| format!("cannot open {REPORT}"))?);
    for mode in &MODES {
        report.line(&examine_mode(mode, &mut |cell| eprintln!("vm-guest: {}: {cell}", mode.name)))?;
    }
    report.line(&json!({"end": true}))
}

struct Report(File);

impl Report {
    fn line(&mut self, value: &Value) -> Result<()> {
        writeln!(self.0, "{value}").with_context(|| format!("cannot write to {REPORT}"))
    }
}

fn mount_all() -> Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tracefs", "/sys/kernel/tracing"),
        ("securityfs", "/sys/kernel/security"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
    ] {
        mount(kind, place, kind, MountFlags::empty(), None).with_context(|| format!("cannot mount {kind} at {place}"))?;
    }
    Ok(())
}

/// How long the end of an incident may take beyond its `dedup_window_secs`.
const END_WITHIN: Duration = Duration::from_secs(90);

/// The agent and its receiver, in one mode.
pub struct Stage {
    /// The agent's process.
    pub agent: AgentProcess,
    receiver: Receiver,
    doctor: Value,
    /// Whether the kernel shows the agent the stacks of other tasks (`proc_pid_stack`, fs/proc/base.c).
    pub sees_stacks: bool,
}

impl Stage {
    fn new(agent: AgentProcess, receiver: Receiver, doctor: &Value) -> Self {
        let sees_stacks = doctor["host"]["capabilities"].as_str().is_some_and(|held| held.contains("SYS_ADMIN"));
        Self { agent, receiver, doctor: doctor.clone(), sees_stacks }
    }

    /// Whether the agent has the signal's probe attached, by its own account.
    pub fn probed(&self, signal: &str) -> bool {
        signals(&self.doctor).iter().any(|found| found["signal"] == signal && found["probe"] == true)
    }

    /// What `enough` makes of all messages so far, as soon as it makes anything of them.
    ///
    /// # Errors
    /// It does not in time; `what` says what was waited for.
    pub fn messages<T>(&self, what: &str, enough: impl Fn(&[Value]) -> Option<T>) -> Result<T> {
        let all = || -> Vec<Value> { self.receiver.all().into_iter().map(|received| received.body).collect() };
        poll(what, END_WITHIN, || Ok(enough(&all())))
    }

    /// The alert about `metric` with these labels.
    ///
    /// # Errors
    /// There is none in time. It names the metrics of those that came instead.
    pub fn alert(&self, metric: &str, labels: &[(&str, &str)]) -> Result<Received> {
        let is_about =
            |body: &Value| body["metric"] == metric && labels.iter().all(|(name, value)| body["labels"][*name] == *value);
        self.receiver.wait_for(ALERT_WITHIN, is_about).map_err(|_| {
            let all = self.receiver.all();
            let of_metric: Vec<String> =
                all.iter().filter(|one| one.body["metric"] == metric).map(|one| one.body["labels"].to_string()).collect();
            if of_metric.is_empty() {
                anyhow::anyhow!("no alert")
            } else {
                anyhow::anyhow!("no alert with the labels {labels:?}, but with {}", of_metric.join(", "))
            }
        })
    }
}

/// Everything in one mode: what doctor says, each fault, and how the agent behaved.
fn examine_mode(mode: &Mode, tell: &mut dyn FnMut(&str)) -> Value {
    let mut results = Vec::new();
    let mut doctor = Value::Null;
    let outcome = (|| -> Result<()> {
        mode.prepare()?;
        let receiver = Receiver::start()?;
        let config = format!(
            "{CONFIG}{}\n[alerting.grouping]\nenabled = false\n[alerting.webhook]\nenabled = true\nurl = '{}'\n[ebpf]\n{}\n",
            mode.alerting,
            receiver.url(),
            mode.ebpf
        );
        doctor = ask_doctor(mode, &config)?;
        results.push(result("doctor", Instant::now(), mode.check(&doctor)));
        let agent = AgentProcess::run(mode.command(AGENT), &config)?;
        let mut stage = Stage::new(agent, receiver, &doctor);
        for Cell { name, run, .. } in mode.cells {
            tell(name);
            let began = Instant::now();
            let mut outcome = result(name, began, run(&stage));
            if outcome["outcome"] == "fail" {
                outcome["latest_alerts"] = stage.receiver.all().iter().rev().take(3).map(|one| one.body.clone()).collect();
            }
            results.push(outcome);
        }
        tell("conduct");
        let began = Instant::now();
        let stopped = stage.agent.stop(STOP_WITHIN).map(drop);
        results.push(result("conduct", began, stopped.and_then(|()| conduct(&stage.receiver.all()))));
        Ok(())
    })();
    if let Err(error) = outcome {
        results.push(json!({"cell": "mode", "outcome": "fail", "reason": format!("{error:#}")}));
    }
    json!({"mode": mode.name, "doctor": doctor, "results": results})
}

fn result(cell: &str, began: Instant, outcome: Result<()>) -> Value {
    let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    match outcome {
        Ok(()) => json!({"cell": cell, "outcome": "pass", "seconds": seconds}),
        Err(error) => json!({"cell": cell, "outcome": "fail", "reason": format!("{error:#}"), "seconds": seconds}),
    }
}

fn ask_doctor(mode: &Mode, config: &str) -> Result<Value> {
    let path = Path::new("/tmp/doctor.toml");
    fs::write(path, config).with_context(|| format!("cannot write {}", path.display()))?;
    let asked =
        mode.command(AGENT).args(["doctor", "--json", "--config"]).arg(path).output().context("cannot start the agent")?;
    serde_json::from_slice(&asked.stdout)
        .with_context(|| format!("doctor printed no JSON ({}): {}", asked.status, String::from_utf8_lossy(&asked.stderr)))
}

/// What holds for all alerts together: nothing was told twice, and nobody was named who merely was interrupted.
fn conduct(all: &[Received]) -> Result<()> {
    let firing: Vec<&Value> = all.iter().map(|received| &received.body).filter(|body| body["status"] == "firing").collect();
    for (index, body) in firing.iter().enumerate() {
        let about = |body: &Value| (body["metric"].clone(), body["labels"].clone());
        let twice = firing.iter().skip(index + 1).any(|other| about(other) == about(body));
        let (metric, labels) = about(body);
        ensure!(!twice, "told twice: {metric} {labels}");
        let comm = labels["comm"].as_str().unwrap_or_default();
        let innocent = labels["pid"] == "0" || comm.starts_with("swapper") || comm == "khungtaskd";
        ensure!(!innocent, "{metric} blames {labels}");
    }
    Ok(())
}
