//! `cargo xtask bench`: figures of the release build on this machine.
//!
//! Quote medians and ratios: machines differ, and so do minutes on one machine. No figure here decides whether a test passes.

mod footprint;
mod latency;
mod probes;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use xtask::faults::trace::mount_tracefs;

use super::build;
use crate::workspace::is_root;

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// What to measure; everything where nothing is named
    #[arg(value_enum)]
    what: Vec<What>,
}

/// One measurement.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// From a kernel event to the first byte at the webhook's receiver
    Latency,
    /// Memory, CPU, threads and BPF maps over a minute at default settings, beside node_exporter where it is installed
    Footprint,
    /// What the BPF programs cost by block request, beside libbpf-tools' biolatency where it is installed
    Probes,
}

/// Measures.
pub fn run(options: &Options) -> Result<()> {
    ensure!(is_root(), "the benchmarks cause real kernel events and attach BPF programs: run them as root");
    mount_tracefs()?;
    let agent = build::agent()?;
    for what in [What::Latency, What::Footprint, What::Probes] {
        if options.what.is_empty() || options.what.contains(&what) {
            match what {
                What::Latency => latency::run(&agent)?,
                What::Footprint => footprint::run(&agent)?,
                What::Probes => probes::run(&agent)?,
            }
        }
    }
    Ok(())
}
