//! What a full cycle of all collectors costs, beside a scrape of node_exporter: on this machine as it is, and with 10,000 more
//! processes. The cycles themselves are in `agent/benches/collect.rs`.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::faults::KillOnDrop;

use super::peer::{PEER, Peer, cpu_ns, status};
use crate::workspace::{cargo, output};

/// Scrapes of node_exporter that are averaged.
const SCRAPES: u32 = 30;
/// Processes that sleep meanwhile, cycles, and how many processes are tracked by CPU and by RSS. The agent tracks 20 by default;
/// more of them make as many series as node_exporter has, which knows no single process.
const SCENES: [(usize, u32, u32); 2] = [(100, 200, 60), (10_000, 20, 60)];
/// How long the sleeping processes live if nobody ends them.
const SLEEP: Duration = Duration::from_secs(900);

/// Measures.
pub fn run() -> Result<()> {
    // Compiled before there are 10,000 processes to compete with.
    output(cargo()?.args(["bench", "--package", "sysops-agent", "--bench", "collect", "--no-run"]))?;
    for (sleepers, cycles, tracked) in SCENES {
        println!("\nall collectors once, with {sleepers} sleeping processes, {tracked} tracked by CPU and by RSS");
        let _sleepers = (0..sleepers).map(|_| sleeper()).collect::<Result<Vec<_>>>()?;
        let numbers = [cycles.to_string(), tracked.to_string()];
        let bench = output(cargo()?.args(["bench", "--package", "sysops-agent", "--bench", "collect", "--"]).args(numbers))?;
        let bench = bench.lines().last().context("the benchmark printed nothing")?;
        let bench: Value = serde_json::from_str(bench).context("the benchmark printed no JSON")?;
        report(&bench, scrape()?.as_ref())?;
    }
    Ok(())
}

fn sleeper() -> Result<KillOnDrop> {
    let child = Command::new("sleep").arg(SLEEP.as_secs().to_string()).stdin(Stdio::null()).spawn();
    Ok(KillOnDrop::new(child.context("cannot start another sleeping process")?))
}

/// What node_exporter takes.
struct Scraped {
    cpu_us: f64,
    series: usize,
    rss_kib: u64,
}

/// Scrapes node_exporter where it is installed.
fn scrape() -> Result<Option<Scraped>> {
    let Some(mut peer) = Peer::start()? else { return Ok(None) };
    let pid = peer.process.pid();
    for _ in 0..3 {
        peer.scrape()?;
    }
    let before = cpu_ns(pid)?;
    for _ in 0..SCRAPES {
        peer.scrape()?;
    }
    let cpu_us = (cpu_ns(pid)? - before) as f64 / 1e3 / f64::from(SCRAPES);
    Ok(Some(Scraped { cpu_us, series: peer.series, rss_kib: status(pid, "VmRSS")? }))
}

fn report(bench: &Value, peer: Option<&Scraped>) -> Result<()> {
    let collectors = bench["collectors"].as_array().context("the benchmark told of no collectors")?;
    let number = |collector: &Value, key: &str| collector[key].as_f64().unwrap_or_default();
    let sum = |key: &str| collectors.iter().map(|collector| number(collector, key)).sum::<f64>();
    println!("{:<22}{:>10}{:>8}{:>13}{:>12}{:>10}", "", "CPU", "series", "allocations", "of bytes", "every");
    for collector in collectors {
        let row = |key| number(collector, key);
        println!(
            "  {:<20}{:>7.0} us{:>8}{:>13.1}{:>12.0}{:>8} s",
            collector["name"].as_str().unwrap_or("?"),
            row("cpu_us"),
            row("series"),
            row("allocations"),
            row("allocated_bytes"),
            row("interval_secs"),
        );
    }
    let (cpu_us, series) = (sum("cpu_us"), sum("series"));
    println!("{:<22}{cpu_us:>7.0} us{series:>8}{:>13.1}{:>12.0}", "a full cycle", sum("allocations"), sum("allocated_bytes"));
    let scheduled: f64 =
        collectors.iter().map(|collector| number(collector, "cpu_us") * 10.0 / number(collector, "interval_secs").max(1.0)).sum();
    println!("{:<22}{scheduled:>7.0} us", "as scheduled, by 10 s");
    println!("{:<22}{:>7.1} MB", "resident memory", number(bench, "rss_kib") * 1.024 / 1e3);
    match peer {
        None => println!("({PEER} is not installed; `apt-get install {PEER}` puts it beside)"),
        Some(peer) => {
            println!("{PEER}:");
            println!("{:<22}{:>7.0} us{:>8}", "a scrape", peer.cpu_us, peer.series);
            println!("{:<22}{:>7.1} MB", "resident memory", peer.rss_kib as f64 * 1.024 / 1e3);
            println!("{:<22}{:>7.3}", "a cycle by a scrape", cpu_us / peer.cpu_us);
        }
    }
    Ok(())
}
