//! `cargo xtask demo`: the agent, and real faults that it tells about, for somebody who has never seen it.
//!
//! Every fault happens in processes, a cgroup and namespaces of its own, and is undone at the end.

use std::io::{BufRead, BufReader, IsTerminal, Write, stdout};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use xtask::faults::fd_exhaustion::Kind;
use xtask::faults::trace::mount_tracefs;
use xtask::faults::{FdExhaustion, MemcgOom, TcpLoss};

use super::{build, setup};
use crate::workspace::is_root;

/// How long the agent may take to begin, and each alert to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// No more lines for this long: the agent has said what it had to say.
const QUIET: Duration = Duration::from_millis(300);

/// The defaults, but sensitive enough for a loss that lasts a few seconds.
const CONFIG: &str = "[ebpf]\ntcp_retransmit_burst = 3\n";

/// Runs the agent, causes the faults, and fails when one of them gave no alert.
pub fn run() -> Result<()> {
    ensure!(
        is_root(),
        "the demo makes a memory cgroup and network namespaces, and attaches BPF programs: run it as root, for example with \
         `sudo -E env PATH=\"$PATH\" cargo xtask demo`"
    );
    setup::packages::install()?;
    mount_tracefs()?;
    let mut agent = Agent::start(&build::agent()?)?;
    agent.expect("ready:", "the agent's line `ready: …`")?;

    announce("a process eats more memory than its cgroup may have");
    let oom = MemcgOom::cause(32 << 20)?;
    agent.expect("kernel_oom_kill", "an alert about the OOM kill")?;

    announce("a process opens sockets until it is refused another descriptor");
    let exhaustion = FdExhaustion::cause(Kind::Socket)?;
    agent.expect("kernel_fd_exhausted", "an alert about the refused descriptor")?;

    announce("four of ten segments between two network namespaces get lost");
    let loss = TcpLoss::establish()?;
    loss.lose(4)?;
    agent.expect("kernel_tcp_retransmit", "an alert about the segments sent again")?;

    drop((oom, exhaustion, loss));
    agent.stop()?;
    println!("\nThree faults, three alerts. A webhook and syslog get the same: see [alerting] in config/config.toml.");
    Ok(())
}

fn announce(what: &str) {
    let (bold, plain) = if stdout().is_terminal() { ("\x1b[1;36m", "\x1b[0m") } else { ("", "") };
    println!("\n{bold}── now: {what}{plain}");
}

/// The running agent, whose output is passed on and looked through.
struct Agent {
    child: Child,
    output: Arc<Output>,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Agent {
    fn start(program: &std::path::Path) -> Result<Self> {
        let directory = tempfile::TempDir::new().context("cannot make a directory for the configuration")?;
        let config = directory.path().join("demo.toml");
        std::fs::write(&config, CONFIG).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).stdout(Stdio::piped());
        if stdout().is_terminal() {
            // Its output passes through here, but it is a terminal that it reaches.
            command.env("CLICOLOR_FORCE", "1");
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let output = Arc::new(Output::default());
        let pipe = child.stdout.take().context("the agent has no output")?;
        let kept = Arc::clone(&output);
        thread::spawn(move || pass_on(pipe, &kept));
        Ok(Self { child, output, _directory: directory })
    }

    /// Waits for a line that holds `text`.
    fn expect(&mut self, text: &str, what: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.output.lines.lock().unwrap_or_else(PoisonError::into_inner);
        while !lines.iter().any(|line| line.contains(text)) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended with {status} before there was {what}");
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!("{PATIENCE:?} passed without {what}; `cargo xtask run -- doctor` tells what serves each signal here");
            };
            let wait = left.min(Duration::from_millis(200));
            lines = self.output.more.wait_timeout(lines, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        // The rest of it belongs together on the screen: go on when no more lines come.
        loop {
            let before = lines.len();
            lines = self.output.more.wait_timeout(lines, QUIET).unwrap_or_else(PoisonError::into_inner).0;
            if lines.len() == before {
                return Ok(());
            }
        }
    }

    fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the agent has no process id")?;
        kill_process(pid, Signal::TERM).context("cannot stop the agent")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the agent stopped with {status}");
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After `stop` there is nothing to kill any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(pipe: ChildStdout, output: &Output) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        let _ = writeln!(stdout(), "{line}");
        output.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        output.more.notify_all();
    }
}
