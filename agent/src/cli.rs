//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::LogLevel;

/// Where the configuration is where nothing else is said.
pub const DEFAULT_CONFIG: &str = "/etc/sysops-agent/config.toml";

const EXIT_STATUS: &str = "Exit status: 0 when stopped by SIGTERM or SIGINT, 1 when the configuration is bad or the agent cannot run, \
2 for wrong arguments. SIGHUP reads the configuration again.";

/// Watches a Linux host through eBPF and /proc and sends alerts that hold the evidence.
#[derive(Debug, Parser)]
#[command(name = "sysops-agent", version, about, args_conflicts_with_subcommands = true, after_help = EXIT_STATUS)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub run: Run,
}

/// Which configuration, and how talkative.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Configuration file
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Verbosity of the program's own log, over the configuration's
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<LogLevel>,
}

/// Run in the foreground.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Which configuration, and how talkative.
    #[command(flatten)]
    pub common: Common,
    /// Check the configuration and exit: 0 where it is good, 1 where it is not
    #[arg(long)]
    pub validate: bool,
    /// Log the debug messages of the BPF programs; loads a separate build of them
    #[arg(long)]
    pub probe_log: bool,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell for each signal which source is active, which better one is not, why, and what to do
    #[command(after_help = "Exit status: 0 when every signal has a source, 1 when one has none or the configuration is bad.")]
    Doctor(Doctor),
}

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// Configuration file; the defaults where it does not exist
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

fn log_level(name: &str) -> Result<LogLevel, String> {
    LogLevel::NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level).ok_or_else(|| {
        let names: Vec<&str> = LogLevel::NAMES.iter().map(|(name, _)| *name).collect();
        format!("write one of {}", names.join(", "))
    })
}
