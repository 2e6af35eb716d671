//! Runs the agent in the foreground until it is told to stop.

use std::process::ExitCode;

use anyhow::anyhow;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::Run;
use crate::config::{self, LogLevel};
use crate::runtime;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is bad, or the system lacks the little without which nothing runs: memory, threads, file descriptors.
pub fn run(options: &Run) -> anyhow::Result<ExitCode> {
    let path = &options.common.config;
    let config = config::load(path).map_err(|problems| anyhow!("the configuration is not good\n{problems}"))?;
    log_to_stderr(options.common.log_level.unwrap_or(config.agent.log_level));
    runtime::run(config, path, options.probe_log)?;
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(colour).with_target(false).init();
}
