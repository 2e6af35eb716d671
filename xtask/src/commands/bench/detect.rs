//! What the analyzers find in labelled series: `agent/benches/detect.rs`, which sees them as the engine does.

use anyhow::Result;

use crate::workspace::{cargo, run as start};

pub fn run() -> Result<()> {
    println!("\nthe analyzers on the series of agent/tests/corpus");
    start(cargo()?.args(["bench", "--quiet", "--package", "sysops-agent", "--bench", "detect"]))
}
