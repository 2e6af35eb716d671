//! Probes that die while the agent runs: noticed, said, stood in for, and attached again.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up shall fail")]

use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::Value;
use xtask::agent_process::AgentProcess;
use xtask::faults::fd_exhaustion::Kind;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{FdExhaustion, MemcgOom, needs_root};
use xtask::receiver::{EACH, Receiver};

const AGENT: &str = env!("CARGO_BIN_EXE_sysops-agent");
/// A bound against hanging.
const SOON: Duration = Duration::from_secs(30);
const OOM_BYTES: u64 = 16 << 20;

fn started(receiver: &Receiver, ebpf: &str) -> AgentProcess {
    mount_tracefs().unwrap();
    let config = format!(
        "[agent]\ncollect_interval_secs = 1\n[ebpf]\n{ebpf}\n{EACH}\
         [alerting.webhook]\nenabled = true\nurl = {:?}\n",
        receiver.url()
    );
    AgentProcess::start(Path::new(AGENT), &config, &[]).unwrap()
}

/// Whether a message tells of the end of this victim.
fn names(oom: &MemcgOom) -> impl Fn(&Value) -> bool + use<> {
    let pid = oom.pid.to_string();
    move |body| body["metric"] == "kernel_oom_kill" && body["labels"]["pid"] == pid
}

/// Descriptors of a process whose link reads so (proc_pid_fd(5)).
fn descriptors(pid: u32, target: &str) -> Vec<RawFd> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(Result::unwrap);
    let wanted = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == Path::new(target)));
    wanted.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Switches off the buffers that the agent's records travel in, which are perf events: its programs run, and nothing arrives.
fn switch_off_buffers(pid: u32) {
    const PERF_EVENT_IOC_DISABLE: libc::c_ulong = 0x2401;
    let process = pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let buffers = descriptors(pid, "anon_inode:[perf_event]");
    assert!(!buffers.is_empty());
    for fd in buffers {
        let buffer = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).unwrap();
        // SAFETY: the request takes no memory.
        assert_eq!(unsafe { libc::ioctl(buffer.as_raw_fd(), PERF_EVENT_IOC_DISABLE, 0) }, 0);
    }
}

#[test]
fn a_blind_probe_is_noticed_stood_in_for_and_attached_again() {
    if needs_root() {
        return;
    }
    let receiver = Receiver::start().unwrap();
    let mut agent = started(&receiver, "transport = \"perf\"\nprobes = [\"oom\"]");
    switch_off_buffers(agent.pid());
    let unseen = MemcgOom::cause(OOM_BYTES).unwrap();
    let told = receiver.wait_for(SOON, names(&unseen)).unwrap();
    assert_eq!(told.body["evidence"]["source"], "kmsg", "{:#}", told.body);
    agent.wait_for_log("probe oom is dead: /proc/vmstat oom_kill rose by ", SOON).unwrap();
    let log = agent.stderr();
    let line = log.lines().find(|line| line.contains("probe oom is dead: ")).unwrap();
    assert!(line.contains("; its signal is now served by: ") && !line.contains("oom/mark_victim"), "{line}");
    assert!(line.contains("; tried again from the top in 1 s"), "{line}");

    agent.wait_for_log("probe oom is attached: tracepoint oom/mark_victim, perf event array", SOON).unwrap();
    let seen = MemcgOom::cause(OOM_BYTES).unwrap();
    let told = receiver.wait_for(SOON, names(&seen)).unwrap();
    assert_eq!(told.body["evidence"]["source"], "tracepoint oom/mark_victim", "{:#}", told.body);
    agent.stop(Duration::from_secs(15)).unwrap();
}

#[test]
fn a_deaf_probe_is_noticed_by_its_losses() {
    if needs_root() {
        return;
    }
    let receiver = Receiver::start().unwrap();
    let mut agent = started(&receiver, "transport = \"perf\"\nprobes = [\"fd\"]");
    switch_off_buffers(agent.pid());
    let _leak = FdExhaustion::cause(Kind::Pipe).unwrap();
    agent.wait_for_log("probe fd is dead: nothing arrives through its perf event array any more", SOON).unwrap();
    agent.wait_for_log("probe fd is attached: ", SOON).unwrap();
    let leak = FdExhaustion::cause(Kind::Pipe).unwrap();
    let pid = leak.pid.to_string();
    receiver.wait_for(SOON, |body| body["metric"] == "kernel_fd_exhausted" && body["labels"]["pid"] == pid).unwrap();
    agent.stop(Duration::from_secs(15)).unwrap();
}

/// Has a process of this architecture put another descriptor in the place of one of its own, from outside: stopped by ptrace(2)
/// in a system call, it makes another one.
#[cfg(target_arch = "x86_64")]
fn replace_descriptor(pid: u32, thread: i32, from: RawFd, to: RawFd) {
    use std::ptr::null_mut;
    let none = null_mut::<libc::c_void>();
    // SAFETY: of the memory here the requests touch `registers` alone, which has the type that they want; of the other
    // process's, its registers, which are restored.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, thread, none, none), 0, "process {pid}");
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none), 0);
        assert_eq!(libc::waitpid(thread, null_mut(), libc::__WALL), thread);
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, thread, none, &raw mut registers), 0);
        let before = registers;
        // Behind the two bytes of the instruction `syscall`, where it waits.
        registers.rip -= 2;
        registers.orig_rax = u64::MAX;
        registers.rax = libc::SYS_dup3.cast_unsigned();
        registers.rdi = u64::from(from.cast_unsigned());
        registers.rsi = u64::from(to.cast_unsigned());
        registers.rdx = u64::from(libc::O_CLOEXEC.cast_unsigned());
        assert_eq!(libc::ptrace(libc::PTRACE_SETREGS, thread, none, &raw mut registers), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_SINGLESTEP, thread, none, none), 0);
        assert_eq!(libc::waitpid(thread, null_mut(), libc::__WALL), thread);
        assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, thread, none, &raw mut registers), 0);
        assert_eq!(registers.rax, u64::from(to.cast_unsigned()), "dup3");
        assert_eq!(libc::ptrace(libc::PTRACE_SETREGS, thread, none, &raw const before), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, thread, none, none), 0);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_detached_probe_steps_down_and_comes_back() {
    if needs_root() {
        return;
    }
    let receiver = Receiver::start().unwrap();
    let mut agent = started(&receiver, "probes = [\"block_io\"]");
    let pid = agent.pid();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let reader = tasks.into_iter().find(|task| fs::read_to_string(task.join("comm")).unwrap().trim_end() == "probes").unwrap();
    let reader = reader.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let [link, ..] = descriptors(pid, "anon_inode:bpf_link")[..] else { panic!("no link\n{}", agent.stdout()) };
    // Any other descriptor will do: the link has no other holder.
    replace_descriptor(pid, reader, 0, link);
    agent.wait_for_log(" BPF links of its programs are gone; its signal is now served by: ", SOON).unwrap();
    let log = agent.stderr();
    let line = log.lines().find(|line| line.contains("probe block_io is dead: ")).unwrap();
    let first = agent.stdout();
    let first = first.lines().find_map(|line| line.trim().strip_prefix("block_io")).unwrap().trim().to_owned();
    assert!(line.contains("; its signal is now served by: ") && line.contains("tracepoints "), "{line}");
    assert!(!line.contains(&first) && line.contains("; tried again from the top in 1 s"), "{line}");
    agent.wait_for_log(&format!("probe block_io is attached: {first}"), SOON).unwrap();
    agent.stop(Duration::from_secs(15)).unwrap();
}

#[test]
fn a_probe_that_was_refused_is_attached_when_tracefs_is_mounted() {
    if needs_root() {
        return;
    }
    mount_tracefs().unwrap();
    let receiver = Receiver::start().unwrap();
    let mut command = Command::new("unshare");
    // Without tracefs and the kernel's types there is no way to attach it.
    let hide = "while umount /sys/kernel/tracing /sys/kernel/debug 2>/dev/null; do :; done; \
                mount -t tmpfs none /sys/kernel/btf; exec \"$@\"";
    command.args(["--mount", "sh", "-c", hide, "sh", AGENT]);
    let config = format!("[ebpf]\nprobes = [\"oom\"]\n{EACH}[alerting.webhook]\nenabled = true\nurl = {:?}\n", receiver.url());
    let mut agent = AgentProcess::run(command, &config).unwrap();
    assert!(agent.stdout().contains("oom             kernel log; "), "{}", agent.stdout());
    let pid = agent.pid().to_string();
    let mount = ["--target", &pid, "--mount", "mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"];
    assert!(Command::new("nsenter").args(mount).status().unwrap().success());
    agent.wait_for_log("probe oom is attached: tracepoint oom/mark_victim", SOON).unwrap();
    let oom = MemcgOom::cause(OOM_BYTES).unwrap();
    let told = receiver.wait_for(SOON, names(&oom)).unwrap();
    assert_eq!(told.body["evidence"]["source"], "tracepoint oom/mark_victim", "{:#}", told.body);
    agent.stop(Duration::from_secs(15)).unwrap();
}
