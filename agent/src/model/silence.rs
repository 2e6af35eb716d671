//! Silences: which alerts nobody is to be told of, and when.
//!
//! Those of the configuration and those made on the command line are the same. Nothing here reads a clock; the time zone of the host is
//! read once, where a weekly window names none.

mod matcher;
mod window;

use serde::{Deserialize, Deserializer, Serialize, de};

pub use matcher::Matcher;
pub use window::{Weekday, Window};
pub(crate) use window::{minute_of_day, time, zone};

use super::{Alert, Timestamp};

/// Keeps alerts from the channels for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// Names it, among those of this host.
    pub id: String,
    /// An alert is meant that all of them match.
    #[serde(deserialize_with = "meaningful")]
    pub matchers: Vec<Matcher>,
    /// When it is active.
    pub window: Window,
    /// Why it is there.
    pub comment: String,
    /// Who made it.
    pub created_by: String,
}

impl Silence {
    /// What an alert must be like, one [`Matcher`] a string.
    ///
    /// # Errors
    /// Which of them is wrong, and how a sentence goes on that begins with it. Also if together they mean every alert: one must not match
    /// the empty string.
    pub fn parse_matchers<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Matcher>, (Option<usize>, String)> {
        let parse = |(index, text): (usize, &S)| text.as_ref().parse::<Matcher>().map_err(|reason| (Some(index), reason));
        let matchers = texts.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        Self::means_something(&matchers).map_err(|reason| (None, reason))?;
        Ok(matchers)
    }

    /// Whether the matchers together leave out any alert.
    ///
    /// # Errors
    /// How a sentence goes on that begins with them.
    pub(crate) fn means_something(matchers: &[Matcher]) -> Result<(), String> {
        if matchers.iter().all(|matcher| matcher.is_match("")) {
            return Err("silence every alert: each matches the empty string".into());
        }
        Ok(())
    }

    /// Whether it is active at this time.
    pub fn is_active(&self, at: Timestamp) -> bool {
        self.window.span(at).is_some()
    }

    /// When the present activity ends; `None` if it is not active.
    pub fn ends_after(&self, at: Timestamp) -> Option<Timestamp> {
        self.window.ends_after(at)
    }

    /// Whether it will never be active again.
    pub fn is_over(&self, at: Timestamp) -> bool {
        self.window.is_over(at)
    }

    /// Whether all matchers match the alert of this host, be it active or not.
    pub fn matches(&self, alert: &Alert, hostname: &str) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(alert, hostname))
    }
}

/// What is stored must not silence more than could have been asked for.
fn meaningful<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Matcher>, D::Error> {
    let matchers = Vec::deserialize(deserializer)?;
    Silence::means_something(&matchers).map_err(|reason| de::Error::custom(format!("the matchers {reason}")))?;
    Ok(matchers)
}
