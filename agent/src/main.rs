//! The program: parses its arguments, sets up logging, calls a command.

use std::process::ExitCode;

use clap::Parser as _;
use sysops_agent::cli::{Cli, Command};
use sysops_agent::commands;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Alerts(options)) => commands::alerts::run(&options),
        Some(Command::Doctor(options)) => commands::doctor::run(&options),
        Some(Command::History(options)) => commands::history::run(&options),
        Some(Command::Scan(options)) => Ok(commands::scan::run(&options)),
        Some(Command::Replay(options)) => commands::replay::run(&options),
        Some(Command::Silence(options)) => commands::silence::run(&options),
        Some(Command::TestAlert(options)) => commands::test_alert::run(&options),
        Some(Command::Top(options)) => commands::top::run(&options),
        None if cli.run.validate => commands::validate::run(&cli.run.common.config),
        None => commands::run::run(&cli.run),
    };
    result.unwrap_or_else(|error| {
        // The alternate form puts all causes on one line.
        commands::complain(&format_args!("sysops-agent: {error:#}"));
        ExitCode::FAILURE
    })
}
