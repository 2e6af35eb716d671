//! `cargo xtask bench`: figures of the release build on this machine.
//!
//! Quote medians and ratios: machines differ, and so do minutes on one machine. No figure here decides whether a test passes.

mod collect;
mod detect;
mod engine;
mod footprint;
mod fuzz;
mod latency;
mod peer;
mod probes;
mod store;

use std::path::Path;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use xtask::faults::trace::mount_tracefs;

use super::build;
use crate::workspace::is_root;

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// What to measure; everything but fuzz where nothing is named
    #[arg(value_enum)]
    what: Vec<What>,
    /// Record the store's series for an hour at ten seconds, in place of six minutes at one second
    #[arg(long)]
    hour: bool,
    /// How long each fuzz target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// One measurement.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// From a kernel event to the first byte at the webhook's receiver
    Latency,
    /// Memory, CPU, threads and BPF maps over a minute at default settings, beside node_exporter where it is installed
    Footprint,
    /// CPU and allocations by cycle of all collectors, beside node_exporter where it is installed, also with 10,000 processes
    Collect,
    /// What the analyzers find in the labelled series of agent/tests/corpus: precision, recall, delay; needs no root
    Detect,
    /// Samples and log lines by second and core through the engine, and the most that one line costs
    Engine,
    /// Whether any input breaks what reads bytes from outside: every fuzz target for a while
    Fuzz,
    /// What the BPF programs cost by block request, beside libbpf-tools' biolatency where it is installed
    Probes,
    /// Bytes and time by sample in the store, and the memory of a day, on series recorded here
    Store,
}

/// Measures the agent whose program is at a path.
type Measure = fn(&Path) -> Result<()>;

/// Measures.
pub fn run(options: &Options) -> Result<()> {
    if options.what.contains(&What::Fuzz) {
        fuzz::run(options.seconds)?;
        if options.what.iter().all(|what| *what == What::Fuzz) {
            return Ok(());
        }
    }
    if options.what.contains(&What::Detect) || options.what.is_empty() {
        detect::run()?;
        if options.what.iter().all(|what| [What::Fuzz, What::Detect].contains(what)) && !options.what.is_empty() {
            return Ok(());
        }
    }
    let wanted = |what: What| options.what.is_empty() || options.what.contains(&what);
    ensure!(is_root(), "the benchmarks cause real kernel events and attach BPF programs: run them as root");
    let of_the_agent: [(What, Measure); 3] =
        [(What::Latency, latency::run), (What::Footprint, footprint::run), (What::Probes, probes::run)];
    if of_the_agent.iter().any(|(what, _)| wanted(*what)) {
        mount_tracefs()?;
        let agent = build::agent()?;
        for (_, measure) in of_the_agent.iter().filter(|(what, _)| wanted(*what)) {
            measure(&agent)?;
        }
    }
    if wanted(What::Collect) {
        collect::run()?;
    }
    if wanted(What::Engine) {
        engine::run()?;
    }
    if wanted(What::Store) { store::run(options.hour) } else { Ok(()) }
}
