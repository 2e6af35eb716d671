//! Patterns of the configuration: regular expressions on the lines of all logs, whose named groups become labels.

use regex::RegexSet;

use crate::config::{CustomPattern, custom_set};
use crate::model::{Labels, Severity};

/// Bytes of a label's value that are kept.
const MAX_VALUE: usize = 128;

/// All patterns of the configuration, as one set.
pub struct CustomPatterns {
    set: RegexSet,
    patterns: Vec<CustomPattern>,
}

/// A pattern that matched.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched<'a> {
    /// Which one it was, by its place in the configuration.
    pub index: usize,
    /// Its name.
    pub name: &'a str,
    /// How bad that is.
    pub severity: Severity,
    /// `pattern` and what its named groups matched.
    pub labels: Labels,
}

impl CustomPatterns {
    /// Compiles them together.
    pub fn new(patterns: &[CustomPattern]) -> Self {
        let patterns = patterns.to_vec();
        // A configuration whose patterns do not compile together was refused when it was read.
        let set = custom_set(&patterns).unwrap_or_else(|_| RegexSet::empty());
        Self { set, patterns }
    }

    /// All that match a line.
    pub fn read<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Matched<'a>> + use<'a> {
        // Without patterns, as on most hosts, nothing is looked at.
        let matches = (!self.patterns.is_empty()).then(|| self.set.matches(text));
        let matches = matches.into_iter().flatten();
        matches.filter_map(move |index| Some(self.patterns.get(index)?.matched(index, text)))
    }
}

impl CustomPattern {
    fn matched<'a>(&'a self, index: usize, text: &str) -> Matched<'a> {
        let mut labels = Labels::new().with("pattern", self.name.as_str());
        // Most have none, and need no second look at the line.
        if self.pattern.0.captures_len() > 1
            && let Some(captures) = self.pattern.0.captures(text)
        {
            for name in self.pattern.0.capture_names().flatten() {
                if let Some(value) = captures.name(name) {
                    let value = value.as_str();
                    labels.set(name.to_owned(), value.get(..value.floor_char_boundary(MAX_VALUE)).unwrap_or_default());
                }
            }
        }
        Matched { index, name: &self.name, severity: self.severity, labels }
    }
}
