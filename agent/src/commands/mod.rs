//! What the program can be told to do: one file a command.

pub mod doctor;
pub mod history;
pub mod replay;
pub mod run;
pub mod scan;
pub mod top;
pub mod validate;

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;

use anyhow::anyhow;

use crate::cli;
use crate::config::{self, Config};

/// The configuration at `path`; the defaults where that is the usual place and nothing is there.
fn config_or_defaults(path: &Path) -> anyhow::Result<Config> {
    if path == Path::new(cli::DEFAULT_CONFIG) && !path.exists() {
        return Ok(Config::default());
    }
    config(path)
}

/// The configuration at `path`.
fn config(path: &Path) -> anyhow::Result<Config> {
    config::load(path).map_err(|problems| anyhow!("the configuration is not good\n{problems}"))
}

/// Prints to standard output, in colour where that is a terminal. Whoever closed it, as `| head` does, has read enough.
fn print(page: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(page.as_bytes()).and_then(|()| out.flush());
}

/// Says on standard error what is wrong, where somebody listens there.
pub fn complain(what: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
