//! `cargo xtask test`: all tests of the host packages, those against the real kernel included when it is root.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use xtask::faults::trace::mount_tracefs;

use super::setup;
use crate::workspace::{cargo, is_root, run as start};

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// Arguments for `cargo test`, such as the beginning of a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_arguments: Vec<OsString>,
}

/// Provides the system programs that the tests call, then runs the tests.
pub fn run(options: &Options) -> Result<()> {
    if is_root() {
        let mail_server = setup::mail_server::unpack().map(drop);
        for provided in [setup::packages::install().map(drop), mail_server, mount_tracefs()] {
            if let Err(error) = provided {
                eprintln!("warning: {error:#}; tests that need it fail");
            }
        }
    } else {
        eprintln!("not root: the tests against the real kernel skip themselves");
    }
    start(cargo()?.arg("test").args(&options.cargo_arguments))
}
