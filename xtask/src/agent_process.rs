//! The agent as its users meet it: a program with a configuration file, what it prints, and signals.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::faults::{KillOnDrop, poll};

/// How long the agent may take from its start to its line `ready: …`.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A running agent; killed when dropped. What it printed is shown if that happens in a panic, as in a failed test.
#[derive(Debug)]
pub struct AgentProcess {
    process: KillOnDrop,
    stdout: PathBuf,
    stderr: PathBuf,
    directory: TempDir,
}

/// How an agent stopped.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the signal to its end.
    pub took: Duration,
}

impl AgentProcess {
    /// Runs `binary` with `arguments` and `--config FILE`, where FILE holds `config`, and returns when it is ready: when
    /// all probes are attached.
    ///
    /// # Errors
    /// If it ends before, or isn't ready after 20 s; the message holds what it printed.
    pub fn start(binary: &Path, config: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(arguments);
        Self::run(command, config)
    }

    /// The same with a command that says as whom and in which environment, and gets `--config FILE` as further arguments.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn run(mut command: Command, config: &str) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("sysops-agent-").tempdir().context("cannot make a directory for the agent")?;
        let file = |name: &str| directory.path().join(name);
        let (config_path, stdout, stderr) = (file("config.toml"), file("stdout"), file("stderr"));
        // The agent may run as another user.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .and_then(|()| fs::write(&config_path, config))
            .with_context(|| format!("cannot write {}", config_path.display()))?;
        let create = |path: &Path| File::create(path).with_context(|| format!("cannot make {}", path.display()));
        let child = command
            .arg("--config")
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?)
            // The agent honours proxies; alerts to the loopback must not take one.
            .env("NO_PROXY", "127.0.0.1")
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let mut agent = Self { process: KillOnDrop::new(child), stdout, stderr, directory };
        let ready = poll("the agent's line `ready: …`", READY_WITHIN, || {
            if agent.stdout().lines().any(|line| line.starts_with("ready")) {
                return Ok(Some(()));
            }
            match agent.process.child().try_wait()? {
                Some(status) => bail!("the agent ended before it was ready: {status}"),
                None => Ok(None),
            }
        });
        ready.with_context(|| agent.printed())?;
        Ok(agent)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has printed to its standard output.
    pub fn stdout(&self) -> String {
        fs::read(&self.stdout).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// What it has printed to its standard error.
    pub fn stderr(&self) -> String {
        fs::read(&self.stderr).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Replaces its configuration file; it reads that again when it gets SIGHUP.
    ///
    /// # Errors
    /// If the file cannot be written, or the agent has ended.
    pub fn reload(&self, config: &str) -> Result<()> {
        let path = self.directory.path().join("config.toml");
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        self.process.signal(Signal::HUP)
    }

    /// Waits until its standard error holds `text`.
    ///
    /// # Errors
    /// If it doesn't within `limit`; the message holds what it printed.
    pub fn wait_for_log(&self, text: &str, limit: Duration) -> Result<()> {
        let said = poll(&format!("{text:?} in the agent's log"), limit, || Ok(self.stderr().contains(text).then_some(())));
        said.with_context(|| self.printed())
    }

    /// Asks it to stop, with SIGTERM.
    ///
    /// # Errors
    /// If it goes on longer than `limit`, fails, or has panicked in some part at any time.
    pub fn stop(&mut self, limit: Duration) -> Result<Stopped> {
        self.stop_with(Signal::TERM, limit)
    }

    /// Keeps it from running (SIGSTOP), or lets it run again (SIGCONT).
    ///
    /// # Errors
    /// If it has ended.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.process.signal(if paused { Signal::STOP } else { Signal::CONT })
    }

    /// Asks it to stop with another signal.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_with(&mut self, signal: Signal, limit: Duration) -> Result<Stopped> {
        let asked = Instant::now();
        self.process.signal(signal)?;
        let stopped = self.process.wait(limit).with_context(|| format!("the agent doesn't stop on {signal:?}"));
        let status = stopped.with_context(|| self.printed())?;
        let stopped = Stopped { status, took: asked.elapsed() };
        if !status.success() {
            bail!("the agent stopped with {status}\n{}", self.printed());
        }
        if self.stderr().contains("panicked at") {
            bail!("a part of the agent panicked\n{}", self.printed());
        }
        Ok(stopped)
    }

    /// Its resident memory in KiB (`VmRSS`, proc_pid_status(5)).
    ///
    /// # Errors
    /// If it has ended.
    pub fn rss_kb(&self) -> Result<u64> {
        self.status("VmRSS")
    }

    /// Its threads.
    ///
    /// # Errors
    /// If it has ended.
    pub fn threads(&self) -> Result<u64> {
        self.status("Threads")
    }

    fn status(&self, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).with_context(|| format!("{path} has no {key}: the agent has ended"))
    }

    fn printed(&self) -> String {
        format!("the agent's standard output:\n{}the agent's standard error:\n{}", self.stdout(), self.stderr())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.printed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that takes the agent's place.
    fn stand_in(script: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_ready_one_can_be_measured_and_stopped() {
        let (_directory, path) =
            stand_in(r#"trap 'exit 0' TERM; grep -q key "$2" && echo "ready: 5 signals"; while :; do sleep 0.01; done"#);
        let mut agent = AgentProcess::start(&path, "key = 1", &[]).unwrap();
        assert!(agent.rss_kb().unwrap() > 0);
        assert_eq!(agent.threads().unwrap(), 1);
        assert!(agent.stop(Duration::from_secs(2)).unwrap().status.success());
        assert!(agent.rss_kb().is_err());
    }

    #[test]
    fn one_that_ends_early_is_quoted() {
        let (_directory, path) = stand_in("echo bad key >&2; exit 1");
        let error = format!("{:#}", AgentProcess::start(&path, "", &[]).unwrap_err());
        assert!(error.contains("bad key") && error.contains("before it was ready: exit status: 1"), "{error}");
    }

    #[test]
    fn one_that_ignores_the_signal_is_reported() {
        let (_directory, path) = stand_in("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        let mut agent = AgentProcess::start(&path, "", &[]).unwrap();
        assert!(agent.stop(Duration::from_millis(100)).is_err());
        let pid = agent.pid();
        drop(agent);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
