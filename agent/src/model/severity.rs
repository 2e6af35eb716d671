//! How bad a finding is.

use std::fmt;
use std::str::FromStr;

/// `Info < Warn < Critical < Emergency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth a record; nobody needs to act.
    Info,
    /// Somebody should look today.
    Warn,
    /// Somebody should look now.
    Critical,
    /// The host or its main service is going down; passes every rate limit.
    Emergency,
}

impl Severity {
    /// All severities, mildest first.
    pub const ALL: [Self; 4] = [Self::Info, Self::Warn, Self::Critical, Self::Emergency];

    /// The name in configuration files and payloads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Critical => "critical",
            Self::Emergency => "emergency",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == s).ok_or(())
    }
}
