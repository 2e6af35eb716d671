//! The engine by itself: `agent/benches/engine.rs` and `agent/benches/patterns.rs`, which see it as the agent does.

use anyhow::Result;

use crate::workspace::{cargo, run as start};

/// Benches of the agent's package, in the order in which they run.
const BENCHES: [&str; 2] = ["engine", "patterns"];

/// Measures.
pub fn run() -> Result<()> {
    for bench in BENCHES {
        println!();
        start(cargo()?.args(["bench", "--quiet", "--package", "sysops-agent", "--bench", bench]))?;
    }
    Ok(())
}
