//! What the agent takes from a host at its default settings: memory, CPU, threads, BPF maps.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xtask::agent_process::AgentProcess;

use super::peer::{PEER, Peer, cpu_ns, status};
use crate::workspace::{output, root};

/// How long the agent runs: six rounds of its ten-second collectors, and their start.
const RUN: Duration = Duration::from_secs(60);
/// Interval of the peer's scrapes, as often as the agent collects.
const SCRAPE_EVERY: Duration = Duration::from_secs(10);

pub fn run(agent: &Path) -> Result<()> {
    println!("\n{} s at default settings (config/minimal.toml), no alerts", RUN.as_secs());
    let config = fs::read_to_string(root()?.join("config/minimal.toml")).context("cannot read config/minimal.toml")?;
    let doctor = output(Command::new(agent).args(["doctor", "--json"]))?;
    let doctor: serde_json::Value = serde_json::from_str(&doctor).context("doctor --json gave no JSON")?;
    let mut peer = Peer::start()?;
    let mut process = AgentProcess::start(agent, &config, &[])?;
    let begun = Instant::now();
    let (cpu, peer_cpu) = (cpu_ns(process.pid())?, peer.as_ref().map_or(Ok(0), |peer| cpu_ns(peer.process.pid()))?);
    let mut rounds = 0_u32;
    while begun.elapsed() < RUN {
        if let Some(peer) = &mut peer {
            peer.scrape()?;
        }
        rounds += 1;
        thread::sleep((begun + SCRAPE_EVERY * rounds).saturating_duration_since(Instant::now()));
    }
    let cpu = cpu_ns(process.pid())? - cpu;
    let round_ms = |nanos: u64| nanos as f64 / 1e6 / f64::from(rounds);
    let row =
        |name: &str, ours: String, theirs: Option<String>| println!("{name:<34}{ours:>14}{:>26}", theirs.unwrap_or_default());
    row("", "sysops-agent".into(), peer.as_ref().map(|_| PEER.into()));
    let peer_pid = peer.as_ref().map(|peer| peer.process.pid());
    let memory = |pid: u32, key: &str| status(pid, key).map(|kb| format!("{:.1} MB", kb as f64 / 1000.0 * 1.024));
    for (name, key) in
        [("resident memory", "VmRSS"), ("  of it private (anonymous)", "RssAnon"), ("  its peak, at the start", "VmHWM")]
    {
        row(name, memory(process.pid(), key)?, peer_pid.map(|pid| memory(pid, key)).transpose()?);
    }
    let peer_cpu = peer_pid.map(cpu_ns).transpose()?.map(|now| now - peer_cpu);
    row("CPU by round of 10 s", format!("{:.2} ms", round_ms(cpu)), peer_cpu.map(|nanos| format!("{:.2} ms", round_ms(nanos))));
    row(
        "threads",
        process.threads()?.to_string(),
        peer_pid.map(|pid| status(pid, "Threads")).transpose()?.map(|n| n.to_string()),
    );
    row("BPF maps", format!("{} KiB", doctor["bpf_map_bytes"].as_u64().unwrap_or(0) / 1024), None);
    let series: u64 = doctor["collectors"].as_array().into_iter().flatten().filter_map(|tried| tried["series"].as_u64()).sum();
    row("series", format!("over {series}"), peer.as_ref().map(|peer| peer.series.to_string()));
    if peer.is_none() {
        println!("({PEER} is not installed; `apt-get install {PEER}` puts it beside)");
    }
    process.stop(Duration::from_secs(10))?;
    Ok(())
}
