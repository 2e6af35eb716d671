//! `cargo xtask run`: the agent in the foreground, with all the privileges that can be had without trouble.

use std::ffi::OsString;
use std::io::{IsTerminal, stdin};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Error, Result};
use clap::Args;

use xtask::faults::trace::mount_tracefs;

use super::build;
use crate::workspace::{find_program, is_root, root};

/// Options of the command.
#[derive(Args)]
pub struct Options {
    /// Arguments of the agent; without --config or a subcommand it runs with config/minimal.toml
    #[arg(last = true)]
    agent_arguments: Vec<OsString>,
}

/// Builds the agent and becomes it, so that signals reach it.
pub fn run(options: &Options) -> Result<()> {
    let agent = build::agent()?;
    if is_root()
        && let Err(error) = mount_tracefs()
    {
        eprintln!("warning: {error:#}; most probes need it");
    }
    let mut command = if is_root() || !sudo_works() {
        if !is_root() {
            eprintln!("running without root: no BPF, and only what this user may see; run it as root for all of it");
        }
        Command::new(&agent)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("--").arg(&agent);
        sudo
    };
    if !chooses_configuration(&options.agent_arguments) {
        command.arg("--config").arg(root()?.join("config/minimal.toml"));
    }
    command.args(&options.agent_arguments);
    Err(Error::from(command.exec())).with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))
}

/// Whether the arguments name a configuration, or a subcommand, which knows its own.
fn chooses_configuration(arguments: &[OsString]) -> bool {
    let is_config = |argument: &OsString| {
        let bytes = argument.as_encoded_bytes();
        bytes == b"--config" || bytes.starts_with(b"--config=") || (bytes.starts_with(b"-c") && !bytes.starts_with(b"--"))
    };
    let is_subcommand = |argument: &OsString| !argument.as_encoded_bytes().starts_with(b"-");
    arguments.first().is_some_and(is_subcommand) || arguments.iter().any(is_config)
}

/// Whether sudo lets this user in: without a password, or with one that a person at the terminal knows.
fn sudo_works() -> bool {
    if find_program("sudo").is_none() {
        return false;
    }
    let validate = |arguments: &[&str]| {
        let quiet = || if arguments.contains(&"-n") { Stdio::null() } else { Stdio::inherit() };
        let status = Command::new("sudo").args(arguments).stdout(quiet()).stderr(quiet()).status();
        status.is_ok_and(|status| status.success())
    };
    validate(&["-n", "true"]) || (stdin().is_terminal() && validate(&["-v"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooses(arguments: &[&str]) -> bool {
        chooses_configuration(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_default_configuration_yields_to_one_that_is_named_and_to_subcommands() {
        assert!(!chooses(&[]));
        assert!(!chooses(&["--log-level", "debug"]));
        assert!(!chooses(&["--validate"]));
        assert!(chooses(&["--log-level", "debug", "--config", "x.toml"]));
        assert!(chooses(&["--config=x.toml"]));
        assert!(chooses(&["-c", "x.toml"]));
        assert!(chooses(&["-cx.toml"]));
        assert!(chooses(&["doctor", "--json"]));
    }
}
