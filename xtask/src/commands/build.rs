//! `cargo xtask build`: the agent in release mode, with plain stable Rust.

use std::path::PathBuf;

use anyhow::Result;

use crate::workspace::{cargo, release_directory, run as start};

/// Builds the agent.
pub fn run() -> Result<()> {
    let program = agent()?;
    println!("built {}", program.display());
    Ok(())
}

/// Builds the agent and gives the path of the program.
pub fn agent() -> Result<PathBuf> {
    start(cargo()?.args(["build", "--release", "--package", "sysops-agent"]))?;
    Ok(release_directory()?.join("sysops-agent"))
}
