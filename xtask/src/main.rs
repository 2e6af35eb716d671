//! `cargo xtask`: builds, runs, tests and measures sysops-agent.

fn main() {}
