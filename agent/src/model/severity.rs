//! How bad a finding is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `Info < Warn < Critical < Emergency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// Some of the severities: those that a channel is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Severities(u8);

impl Severities {
    /// This one and all that are worse.
    pub fn from(mildest: Severity) -> Self {
        Severity::ALL.into_iter().filter(|severity| *severity >= mildest).collect()
    }

    /// Whether it is one of them.
    pub const fn contains(self, severity: Severity) -> bool {
        self.0 & 1 << severity as u8 != 0
    }
}

impl FromIterator<Severity> for Severities {
    fn from_iter<I: IntoIterator<Item = Severity>>(severities: I) -> Self {
        Self(severities.into_iter().fold(0, |bits, severity| bits | 1 << severity as u8))
    }
}
