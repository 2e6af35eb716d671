//! The engine by itself: `agent/benches/patterns.rs`, which sees it as the agent does.

use anyhow::Result;

use crate::workspace::{cargo, run as start};

/// Benches of the agent's package, in the order in which they run.
const BENCHES: [&str; 1] = ["patterns"];

/// Measures.
pub fn run() -> Result<()> {
    for bench in BENCHES {
        println!();
        start(cargo()?.args(["bench", "--quiet", "--package", "sysops-agent", "--bench", bench]))?;
    }
    Ok(())
}
