//! What the program can be told to do: one file a command.

pub mod alerts;
pub mod doctor;
pub mod history;
pub mod replay;
pub mod run;
pub mod scan;
pub mod silence;
pub mod test_alert;
pub mod top;
pub mod validate;

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;

use anyhow::anyhow;

use crate::cli;
use crate::config::{self, Config};
use crate::model::Timestamp;

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

/// A time as it reads on this host's clocks.
fn local_time(at: Timestamp) -> String {
    zoned(at).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time with its zone (RFC 3339).
fn rfc3339(at: Timestamp) -> String {
    zoned(at).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

/// A time outside the calendar's years reads as the epoch.
fn zoned(at: Timestamp) -> jiff::Zoned {
    let at = jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.to_zoned(jiff::tz::TimeZone::system())
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
