//! Runs the agent in the foreground until it is told to stop.

use std::process::ExitCode;

use anyhow::anyhow;

use crate::cli::Run;
use crate::config;
use crate::runtime;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is bad, or the system lacks the little without which nothing runs: memory, threads, file descriptors.
pub fn run(options: &Run) -> anyhow::Result<ExitCode> {
    let path = &options.common.config;
    let config = config::load(path).map_err(|problems| anyhow!("the configuration is not good\n{problems}"))?;
    let exposed = runtime::avoid_oom_killer();
    // Before the first thread is started, as each thread has capabilities of its own.
    let troubles = runtime::shed_privileges();
    let _log = runtime::log_to_stderr(options.common.log_level.unwrap_or(config.agent.log_level))?;
    if let Err(error) = exposed {
        tracing::debug!(
            "cannot lower /proc/self/oom_score_adj: {error}; the OOM killer may choose the agent as any other process"
        );
    }
    troubles.iter().for_each(|trouble| tracing::warn!("{trouble}"));
    runtime::run(config, path, options.probe_log)?;
    Ok(ExitCode::SUCCESS)
}
