//! `--validate`: checks a configuration and says everything that is wrong with it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::{config, runtime};

/// Prints the verdict: on standard output where the configuration is good, else each problem on standard error.
///
/// # Errors
/// None; a bad configuration is an exit code of 1.
pub fn run(path: &Path) -> anyhow::Result<ExitCode> {
    match config::load(path) {
        Ok(config) => {
            let mut page = format!("{}: good\n", path.display());
            for sentence in runtime::lacking(&config) {
                let _ = writeln!(page, "note: {sentence}");
            }
            super::print(&page);
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            super::complain(&problems);
            Ok(ExitCode::FAILURE)
        }
    }
}
