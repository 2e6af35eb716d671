//! Debian's prometheus-node-exporter as the one to compare with, and what a process costs.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::faults::{KillOnDrop, poll};

use crate::workspace::find_program;

/// Its program and Debian package.
pub const PEER: &str = "prometheus-node-exporter";

/// CPU time of all threads of a process (Documentation/scheduler/sched-stats.rst, `/proc/PID/schedstat`).
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
        // A thread may end while they are listed.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// A number of `/proc/PID/status` (proc_pid_status(5)).
pub fn status(pid: u32, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).with_context(|| format!("{path} has no {key}"))
}

/// node_exporter on the loopback, scraped as Prometheus does.
pub struct Peer {
    /// The process.
    pub process: KillOnDrop,
    /// Series on the last page.
    pub series: usize,
    port: u16,
}

impl Peer {
    /// Starts it where it is installed.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = find_program(PEER) else { return Ok(None) };
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let child = Command::new(program)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {PEER}"))?;
        let mut peer = Self { process: KillOnDrop::new(child), port, series: 0 };
        poll("an answer of node_exporter", Duration::from_secs(10), || Ok(peer.scrape().ok()))?;
        Ok(Some(peer))
    }

    /// Scrapes it once.
    pub fn scrape(&mut self) -> Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        self.series = page.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())).count();
        Ok(())
    }
}
