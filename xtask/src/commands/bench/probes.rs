//! What the BPF programs cost: nanoseconds by block request, beside libbpf-tools' biolatency under the same load in the same run,
//! and by TCP segment that is sent again.
//!
//! The kernel measures its programs itself while `kernel.bpf_stats_enabled` is set (Documentation/admin-guide/sysctl/kernel.rst),
//! and tells in the fdinfo of whoever holds a program's descriptor.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;
use xtask::agent_process::AgentProcess;
use xtask::faults::syn_flood::{BY_TABLE, SynFlood};
use xtask::faults::{KillOnDrop, RamDisk};

use crate::workspace::find_program;

const PEER: &str = "biolatency";
/// How long each load lasts.
const LOAD: Duration = Duration::from_secs(4);
/// Rounds, of which the median counts: minutes differ on one machine.
const ROUNDS: usize = 5;
const BLOCK: usize = 4096;
const THREADS: u64 = 2;

pub fn run(agent: &Path) -> Result<()> {
    println!(
        "\nblock requests: random reads of 4 KiB from a loop device in memory, {THREADS} threads, median of {ROUNDS} rounds"
    );
    println!("{:<26}{:>14}{:>14}{:>12}", "", "ns by request", "IOPS", "requests");
    let stats = BpfStats::enable()?;
    let disk = RamDisk::attach(64 << 20)?;
    let mut rows = vec![Row::new("nothing attached"), Row::new("sysops-agent (block_io)"), Row::new(PEER)];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let watcher = Watcher::start(row.name, agent)?;
            let Some(watcher) = watcher else { continue };
            row.measure(&watcher, disk.path())?;
        }
    }
    drop(disk);
    for row in &mut rows {
        row.print();
    }
    retransmits(agent)?;
    drop(stats);
    Ok(())
}

/// The same of segments that are sent again, while a host's connections get no answer: each is the first of its connection that the
/// program knows, so this is what one costs at most.
fn retransmits(agent: &Path) -> Result<()> {
    println!("\nTCP segments sent again: {BY_TABLE} connections without an answer, median of {ROUNDS} rounds");
    println!("{:<26}{:>14}{:>14}", "", "ns by segment", "segments");
    let watcher = Watcher::agent(agent, "tcp_retransmit")?;
    let (mut nanos, mut segments) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let before = sum(&programs(&watcher)?);
        let flood = SynFlood::start(BY_TABLE)?;
        thread::sleep(LOAD);
        flood.stop()?;
        let after = sum(&programs(&watcher)?);
        ensure!(after.1 > before.1, "no program of tcp_retransmit ran");
        nanos.push((after.0 - before.0) as f64 / (after.1 - before.1) as f64);
        segments += after.1 - before.1;
    }
    println!("{:<26}{:>14.0}{segments:>14}", "sysops-agent", median(&mut nanos).unwrap_or_default());
    Ok(())
}

/// Over all programs.
fn sum(programs: &Programs) -> (u64, u64) {
    programs.values().fold((0, 0), |(a, b), (nanos, runs)| (a + nanos, b + runs))
}

/// What watches the requests.
enum Watcher {
    Nobody,
    Agent(AgentProcess),
    Peer(KillOnDrop),
}

impl Watcher {
    /// Starts it; `None` where it is not installed.
    fn start(name: &str, agent: &Path) -> Result<Option<Self>> {
        if name == "nothing attached" {
            return Ok(Some(Self::Nobody));
        }
        if name != PEER {
            return Self::agent(agent, "block_io").map(Some);
        }
        let Some(program) = find_program(PEER) else {
            println!("({PEER} is not installed; `apt-get install libbpf-tools` puts it beside)");
            return Ok(None);
        };
        let child = Command::new(program).arg("3600").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let peer = Self::Peer(KillOnDrop::new(child));
        let attached = || Ok((programs(&peer)?.len() >= 2).then_some(()));
        xtask::faults::poll("the peer's programs", Duration::from_secs(10), attached)?;
        Ok(Some(peer))
    }

    /// The agent with one probe.
    fn agent(agent: &Path, probe: &str) -> Result<Self> {
        let config = format!("[agent]\nlog_level = \"warn\"\n[ebpf]\nprobes = [\"{probe}\"]\n");
        Ok(Self::Agent(AgentProcess::start(agent, &config, &[])?))
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Nobody => None,
            Self::Agent(agent) => Some(agent.pid()),
            Self::Peer(process) => Some(process.pid()),
        }
    }
}

/// Run time in nanoseconds and runs, by its id, of each program that the watcher holds, in one descriptor or in several.
type Programs = BTreeMap<u64, (u64, u64)>;

fn programs(watcher: &Watcher) -> Result<Programs> {
    let Some(pid) = watcher.pid() else { return Ok(Programs::new()) };
    let directory = format!("/proc/{pid}/fdinfo");
    let mut found = Programs::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))? {
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(nanos), Some(runs)) = (value("prog_id:"), value("run_time_ns:"), value("run_cnt:")) {
            found.insert(id, (nanos, runs));
        }
    }
    Ok(found)
}

struct Row {
    name: &'static str,
    nanos: Vec<f64>,
    iops: Vec<f64>,
    requests: u64,
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self { name, nanos: Vec::new(), iops: Vec::new(), requests: 0 }
    }

    fn measure(&mut self, watcher: &Watcher, device: &Path) -> Result<()> {
        let before = programs(watcher)?;
        let (reads, took) = load(device)?;
        let after = programs(watcher)?;
        self.iops.push(reads as f64 / took.as_secs_f64());
        self.requests += reads;
        if watcher.pid().is_some() {
            // Issue and completion are a program each, and each runs once by request; others run on other occasions.
            let requests = after.iter().map(|(id, (_, runs))| runs - before.get(id).map_or(0, |(_, runs)| *runs));
            let requests = requests.max().unwrap_or(0);
            ensure!(requests > 0, "no program of {} ran", self.name);
            self.nanos.push((sum(&after).0 - sum(&before).0) as f64 / requests as f64);
        }
        Ok(())
    }

    fn print(&mut self) {
        let nanos = median(&mut self.nanos).map_or("–".to_owned(), |nanos| format!("{nanos:.0}"));
        let iops = median(&mut self.iops).map_or("–".to_owned(), |iops| format!("{iops:.0}"));
        println!("{:<26}{nanos:>14}{iops:>14}{:>12}", self.name, self.requests);
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Reads blocks at random places past the page cache, as fast as the device gives them; how many, and in which time.
fn load(device: &Path) -> Result<(u64, Duration)> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).context("a flag of open(2) that is no int")?;
    let open = || OpenOptions::new().read(true).custom_flags(direct).open(device);
    let file = open().with_context(|| format!("cannot open {} with O_DIRECT", device.display()))?;
    let blocks = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))? / BLOCK as u64;
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..THREADS)
            .map(|seed| {
                scope.spawn({
                    let (file, stop, reads) = (&file, &stop, &reads);
                    move || read_until(file, blocks, seed, stop, reads)
                })
            })
            .collect();
        thread::sleep(LOAD);
        stop.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|_| Err(std::io::Error::other("a reader panicked"))))
    })?;
    Ok((reads.into_inner(), begun.elapsed()))
}

/// Memory that O_DIRECT takes: aligned to a block.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

fn read_until(file: &File, blocks: u64, seed: u64, stop: &AtomicBool, reads: &AtomicU64) -> std::io::Result<()> {
    let mut buffer = Box::new(Aligned([0; BLOCK]));
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !stop.load(Ordering::Relaxed) {
        // Marsaglia's xorshift: any spread will do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        file.read_exact_at(&mut buffer.0, (random % blocks.max(1)) * BLOCK as u64)?;
        reads.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Has the kernel measure BPF programs until it is dropped.
struct BpfStats {
    before: String,
}

impl BpfStats {
    const PATH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn enable() -> Result<Self> {
        let path = PathBuf::from(Self::PATH);
        let before = fs::read_to_string(&path).with_context(|| format!("cannot read {}", Self::PATH))?;
        fs::write(&path, "1").with_context(|| format!("cannot write {}", Self::PATH))?;
        Ok(Self { before })
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.before);
    }
}
