//! What the program can be told to do: one file a command.

pub mod doctor;
pub mod run;
pub mod validate;

use std::fmt::Display;
use std::io::Write as _;

/// Prints to standard output, in colour where that is a terminal. Whoever closed it, as `| head` does, has read enough.
fn print(page: &str) {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(page.as_bytes()).and_then(|()| out.flush());
}

/// Says on standard error what is wrong, where somebody listens there.
pub fn complain(what: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
