//! The faults, and what the agent must tell of each: through probes everything, without them what the other source knows.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::faults::fd_exhaustion::{FdExhaustion, Kind};
use xtask::faults::{FailingDevice, FrozenFilesystem, GlobalOom, MemcgOom, ScsiDisk, SlowDevice, TcpLoss};

use super::guest::Stage;

/// One fault.
pub struct Cell {
    /// How the table calls it.
    pub name: &'static str,
    /// The agent's name of the signal that it concerns.
    pub signal: &'static str,
    /// Causes it and looks for its alert; an error says what is not as it should be.
    pub run: fn(&Stage) -> Result<()>,
}

static MEMCG_OOM: Cell = Cell { name: "OOM in a memory cgroup", signal: "oom", run: memcg_oom };
static HUNG_TASK: Cell = Cell { name: "task hung on a frozen file system", signal: "hung_task", run: hung_task };
static SLOW_LOOP: Cell = Cell { name: "slow request to a loop device", signal: "block_io", run: slow_loop };
static FAILING_LOOP: Cell = Cell { name: "failed request to a loop device", signal: "block_io", run: failing_loop };
static SLOW_SCSI: Cell = Cell { name: "slow request to a SCSI disk", signal: "block_io", run: slow_scsi };
static FAILING_SCSI: Cell = Cell { name: "failed request to a SCSI disk", signal: "block_io", run: failing_scsi };
static TCP_LOSS: Cell = Cell { name: "lost TCP segments", signal: "tcp_retransmit", run: tcp_loss };
static DESCRIPTORS: Cell = Cell { name: "descriptors exhausted", signal: "fd", run: descriptors };
static GLOBAL_OOM: Cell = Cell { name: "OOM of the whole machine", signal: "oom", run: global_oom };
static HUNDRED_OOMS: Cell = Cell { name: "a hundred OOMs in a row", signal: "oom", run: hundred_ooms };
static OVERWRITTEN_LOG: Cell = Cell { name: "kernel log overwritten before it is read", signal: "oom", run: overwritten_log };

/// All faults, in the order in which they are caused. The last one is hard on the machine.
pub static ALL: [&Cell; 9] =
    [&MEMCG_OOM, &HUNG_TASK, &SLOW_LOOP, &FAILING_LOOP, &SLOW_SCSI, &FAILING_SCSI, &TCP_LOSS, &DESCRIPTORS, &GLOBAL_OOM];
/// At least one fault of each signal.
pub static ONE_EACH: [&Cell; 6] = [&MEMCG_OOM, &HUNG_TASK, &SLOW_LOOP, &FAILING_LOOP, &TCP_LOSS, &DESCRIPTORS];
/// More at a time than anybody reads.
pub static SERIES: [&Cell; 2] = [&HUNDRED_OOMS, &OVERWRITTEN_LOG];

/// The default of `[ebpf] block_io_slow_ms`.
const LIMIT: Duration = Duration::from_millis(100);
/// How long a slow request takes.
const SLOW: Duration = Duration::from_millis(400);

/// The values of `body` that are not as expected.
fn expect(body: &Value, expected: &[(&str, Value)]) -> Result<()> {
    for (pointer, value) in expected {
        let found = body.pointer(pointer).unwrap_or(&Value::Null);
        ensure!(found == value, "the alert says {pointer} {found} instead of {value}");
    }
    Ok(())
}

fn memcg_oom(stage: &Stage) -> Result<()> {
    let oom = MemcgOom::cause(16 << 20)?;
    let alert = stage.alert("kernel_oom_kill", &[("pid", &oom.pid.to_string())])?;
    expect(
        &alert.body,
        &[
            ("/labels/comm", json!(oom.comm)),
            ("/labels/cgroup", json!(oom.cgroup)),
            ("/evidence/constraint", json!("memcg")),
            ("/evidence/killed", json!(true)),
        ],
    )?;
    // The machine's first process has caused it; a child of PID 1 is a service to who knows that.
    let severity = if alert.body["evidence"]["parent_pid"] == 1 { "emergency" } else { "critical" };
    expect(&alert.body, &[("/severity", json!(severity))])?;
    if stage.probed("oom") {
        expect(&alert.body, &[("/evidence/limit_bytes", json!(oom.limit_bytes)), ("/evidence/trigger_pid", json!(oom.pid))])?;
    }
    Ok(())
}

fn global_oom(stage: &Stage) -> Result<()> {
    let oom = GlobalOom::cause()?;
    let alert = stage.alert("kernel_oom_kill", &[("pid", &oom.pid.to_string())])?;
    expect(
        &alert.body,
        &[
            ("/severity", json!("emergency")),
            ("/labels/comm", json!(oom.comm)),
            ("/evidence/constraint", json!("none")),
            ("/evidence/killed", json!(true)),
        ],
    )
}

/// Victims of a series.
const HUNDRED: usize = 100;

fn hundred_ooms(stage: &Stage) -> Result<()> {
    let victims = (0..HUNDRED).map(|_| Ok(MemcgOom::cause(4 << 20)?.pid.to_string())).collect::<Result<BTreeSet<_>>>()?;
    ensure!(victims.len() == HUNDRED, "the kernel used a process id again: {} are different", victims.len());
    for pid in &victims {
        stage.alert("kernel_oom_kill", &[("pid", pid)])?;
    }
    // By its end everybody has said of an incident what there is to say.
    let ended = stage.messages("their ends", |all| {
        let resolved = all.iter().filter(|body| body["metric"] == "kernel_oom_kill" && body["status"] == "resolved");
        (resolved.count() >= HUNDRED).then(|| all.to_vec())
    })?;
    for pid in &victims {
        let of = |status: &str| -> Vec<&Value> {
            let about = |body: &&Value| body["labels"]["pid"] == pid.as_str() && body["status"] == status;
            ended.iter().filter(about).collect()
        };
        let (firing, resolved) = (of("firing").len(), of("resolved"));
        ensure!(firing == 1 && resolved.len() == 1, "the OOM of {pid} began {firing} times and ended {} times", resolved.len());
        let witnesses = &resolved[0]["evidence"]["witnesses"];
        let has = |name: &str| witnesses.as_array().is_some_and(|all| all.iter().any(|witness| witness == name));
        ensure!(has("probe") && has("kmsg"), "the OOM of {pid} was witnessed by {witnesses}");
    }
    let others = ended.iter().filter(|body| body["metric"] == "kernel_oom_kill" && body["status"] == "firing").count() - HUNDRED;
    ensure!(others == 0, "{others} alerts are about OOMs that nobody caused");
    Ok(())
}

/// Where anybody with the privilege may write lines into the kernel's log, as many as `printk_devkmsg` allows.
const KERNEL_LOG: &str = "/dev/kmsg";
/// More than the log of any kernel holds that is built for virtual machines.
const LINES: usize = 40_000;

fn overwritten_log(stage: &Stage) -> Result<()> {
    fs::write("/proc/sys/kernel/printk_devkmsg", "on\n").context("cannot lift the limit of lines in the kernel's log")?;
    let mut log = File::options().write(true).open(KERNEL_LOG).with_context(|| format!("cannot open {KERNEL_LOG}"))?;
    stage.agent.pause(true)?;
    let oom = MemcgOom::cause(4 << 20)?;
    for _ in 0..LINES {
        // Of debug level, which the console leaves out.
        log.write_all(b"<7>one line of many\n").with_context(|| format!("cannot write to {KERNEL_LOG}"))?;
    }
    stage.agent.pause(false)?;
    stage.alert("kernel_oom_kill", &[("pid", &oom.pid.to_string())])?;
    let pid = oom.pid.to_string();
    let end = stage.messages("its end", |all| {
        let is_end = |body: &&Value| body["labels"]["pid"] == pid.as_str() && body["status"] == "resolved";
        all.iter().find(is_end).cloned()
    })?;
    let evidence = &end["evidence"];
    let told = evidence["losses"].as_array().is_some_and(|losses| losses.iter().any(|loss| loss["source"] == "kmsg"));
    ensure!(told, "the alert does not say that lines of the log were lost: {evidence}");
    let disputed = evidence["disagreement"].as_str().is_some_and(|disputed| disputed.contains("kernel log"));
    ensure!(!disputed, "nothing can be expected of lines that were lost: {evidence}");
    // It reads on.
    let next = MemcgOom::cause(4 << 20)?;
    let pid = next.pid.to_string();
    let end = stage.messages("the end of the next", |all| {
        let is_end = |body: &&Value| body["labels"]["pid"] == pid.as_str() && body["status"] == "resolved";
        all.iter().find(is_end).cloned()
    })?;
    let witnesses = end["evidence"]["witnesses"].to_string();
    ensure!(witnesses.contains("kmsg"), "the log bears no witness any more: {witnesses}");
    Ok(())
}

fn hung_task(stage: &Stage) -> Result<()> {
    let frozen = FrozenFilesystem::freeze(Duration::from_secs(2))?;
    let alert = stage.alert("kernel_hung_task", &[("pid", &frozen.pid.to_string())])?;
    // Before 5.16 the kernel says 0 for a task of x86 (get_wchan); an alert that repeats it would tell nothing.
    let wchan = Some(frozen.wchan()?).filter(|wchan| wchan != "0");
    expect(
        &alert.body,
        &[
            ("/labels/comm", json!(frozen.comm)),
            ("/evidence/wchan", json!(wchan)),
            ("/evidence/command_line", json!(frozen.command_line)),
        ],
    )?;
    if !stage.sees_stacks {
        return frozen.thaw();
    }
    let told = alert.body["evidence"]["stack"].as_array().context("the alert has no stack")?;
    let stack = frozen.stack()?;
    let is_told = |function: &String| told.iter().any(|frame| frame.as_str().is_some_and(|frame| frame.contains(function)));
    ensure!(stack.iter().all(is_told), "the alert's stack lacks a function of the task's");
    frozen.thaw()
}

fn slow_loop(stage: &Stage) -> Result<()> {
    let mut device = SlowDevice::attach()?;
    let request = device.write(SLOW)?;
    let alert = stage.alert("kernel_block_io_slow", &[("device", device.name())])?;
    expect(&alert.body, &[("/labels/operation", json!("write"))])?;
    if stage.probed("block_io") {
        expect(
            &alert.body,
            &[
                ("/evidence/sector", json!(request.sector)),
                ("/evidence/bytes", json!(request.bytes)),
                ("/evidence/comm", json!(request.comm)),
                ("/evidence/pid", json!(request.pid)),
            ],
        )?;
    }
    // Of the means that the counters give, it is one request among others.
    let least = if stage.probed("block_io") { SLOW } else { LIMIT };
    let value = alert.body["value"].as_f64().unwrap_or_default();
    ensure!(value >= least.as_secs_f64() * 1e3 * 0.9, "the alert's latency of {value} ms is too low");
    Ok(())
}

fn failing_loop(stage: &Stage) -> Result<()> {
    let device = FailingDevice::attach()?;
    let request = device.read()?;
    failed(stage, device.name(), request.sector, request.pid, request.comm, "EIO")
}

fn slow_scsi(stage: &Stage) -> Result<()> {
    let disk = ScsiDisk::attach()?;
    let request = disk.slow_read(SLOW)?;
    let alert = stage.alert("kernel_block_io_slow", &[("device", disk.name())])?;
    expect(&alert.body, &[("/labels/operation", json!("read"))])?;
    if stage.probed("block_io") {
        expect(&alert.body, &[("/evidence/comm", json!(request.comm)), ("/evidence/pid", json!(request.pid))])?;
    }
    Ok(())
}

fn failing_scsi(stage: &Stage) -> Result<()> {
    let disk = ScsiDisk::attach()?;
    let request = disk.failing_read()?;
    failed(stage, disk.name(), request.sector, request.pid, request.comm, "ENODATA")
}

fn failed(stage: &Stage, device: &str, sector: u64, pid: u32, comm: &str, error: &str) -> Result<()> {
    let alert = stage.alert("kernel_block_io_error", &[("device", device), ("operation", "read")])?;
    expect(&alert.body, &[("/evidence/sector", json!(sector))])?;
    if stage.probed("block_io") {
        expect(
            &alert.body,
            &[("/evidence/error", json!(error)), ("/evidence/comm", json!(comm)), ("/evidence/pid", json!(pid))],
        )?;
    }
    Ok(())
}

fn tcp_loss(stage: &Stage) -> Result<()> {
    if !stage.probed("tcp_retransmit") {
        // The counters are those of one network namespace: the agent's.
        let loss = TcpLoss::establish_from_here()?;
        loss.lose(4)?;
        return stage.alert("kernel_tcp_retransmit", &[]).map(drop);
    }
    let loss = TcpLoss::establish()?;
    loss.lose(4)?;
    let (local, peer) = (loss.local.to_string(), loss.peer.to_string());
    let alert = stage.alert("kernel_tcp_retransmit", &[("local", &local), ("peer", &peer)])?;
    expect(
        &alert.body,
        &[
            ("/labels/pid", json!(loss.pid.to_string())),
            ("/labels/comm", json!(loss.comm)),
            ("/evidence/state", json!("established")),
        ],
    )
}

fn descriptors(stage: &Stage) -> Result<()> {
    let leak = FdExhaustion::cause(Kind::Socket)?;
    let alert = stage.alert("kernel_fd_exhausted", &[("pid", &leak.pid.to_string())])?;
    expect(&alert.body, &[("/labels/comm", json!(leak.comm)), ("/evidence/limit", json!(leak.limit))])?;
    if stage.probed("fd") {
        expect(&alert.body, &[("/evidence/errno", json!("EMFILE"))])?;
    }
    let sockets = alert.body["evidence"]["kinds"]["socket"].as_u64().unwrap_or_default();
    ensure!(sockets >= leak.of_kind, "the alert counts {sockets} sockets of {}", leak.of_kind);
    Ok(())
}
