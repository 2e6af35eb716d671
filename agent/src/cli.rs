//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::LogLevel;

/// Where the configuration is where nothing else is said.
pub const DEFAULT_CONFIG: &str = "/etc/sysops-agent/config.toml";

/// Watches a Linux host through eBPF and /proc and sends alerts that hold the evidence.
#[derive(Debug, Parser)]
#[command(name = "sysops-agent", version, about, args_conflicts_with_subcommands = true)]
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
