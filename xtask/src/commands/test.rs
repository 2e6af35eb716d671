//! `cargo xtask test`: all tests of the host packages, those against the real kernel included when it is root.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use super::setup;
use crate::workspace::{cargo, is_root, run as start};

/// Name of the environment variable with the path of the file to which a test that skips itself appends a line.
pub const SKIPS: &str = "SYSOPS_AGENT_SKIPS";

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// Arguments for `cargo test`, such as the beginning of a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_arguments: Vec<OsString>,
}

/// Provides the system programs that the tests call, then runs the tests.
pub fn run(options: &Options) -> Result<()> {
    if !is_root() {
        eprintln!("not root: the tests against the real kernel skip themselves");
    } else if let Err(error) = setup::packages::install() {
        eprintln!("warning: {error:#}; tests that need it skip themselves or fail");
    }
    start(cargo()?.arg("test").args(&options.cargo_arguments))
}
