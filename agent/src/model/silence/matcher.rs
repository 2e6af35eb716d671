//! `name=value`, `name!=value`, `name=~expression`, `name!~expression`, as Alertmanager and amtool write them.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::model::Alert;

/// Most memory that one compiled expression may take, in bytes.
const MAX_PATTERN: usize = 1 << 20;
/// Deepest nesting of an expression.
const MAX_NESTING: u32 = 64;

/// What a label of an alert must be. A label that an alert does not have is the empty string; `metric`, `severity` and `hostname` are labels
/// of every alert.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Matcher {
    /// Name of the label.
    name: String,
    /// Whether what it says must not be so.
    negated: bool,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Equal(String),
    /// The expression as it was written, and compiled for the whole value.
    Like(String, Regex),
}

impl Matcher {
    pub(super) fn matches(&self, alert: &Alert, hostname: &str) -> bool {
        self.is_match(match self.name.as_str() {
            "metric" => &alert.metric,
            "severity" => alert.severity.as_str(),
            "hostname" => hostname,
            name => alert.labels.get(name).unwrap_or_default(),
        })
    }

    pub(super) fn is_match(&self, value: &str) -> bool {
        let is = match &self.value {
            Value::Equal(text) => text == value,
            Value::Like(_, regex) => regex.is_match(value),
        };
        is != self.negated
    }

    fn parts(&self) -> (&str, bool, bool, &str) {
        let (is_regex, text) = match &self.value {
            Value::Equal(text) => (false, text),
            Value::Like(text, _) => (true, text),
        };
        (&self.name, self.negated, is_regex, text)
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

/// With the value in quotes, as it reads back.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, negated, is_regex, text) = self.parts();
        let operator = match (negated, is_regex) {
            (false, false) => "=",
            (true, false) => "!=",
            (false, true) => "=~",
            (true, true) => "!~",
        };
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(f, "{name}{operator}\"{text}\"")
    }
}

impl From<Matcher> for String {
    fn from(matcher: Matcher) -> Self {
        matcher.to_string()
    }
}

impl TryFrom<String> for Matcher {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|reason| format!("{text:?} {reason}"))
    }
}

/// The error continues a sentence that begins with the string, and does not quote it.
impl FromStr for Matcher {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let rest = rest.trim_start();
        let operators = [("=~", false, true), ("!~", true, true), ("!=", true, false), ("=", false, false)];
        let found = operators.into_iter().find_map(|(operator, negated, is_regex)| {
            rest.strip_prefix(operator).map(|value| (negated, is_regex, value.trim_start()))
        });
        let Some((negated, is_regex, value)) = found else {
            return Err("holds no =, !=, =~ or !~ behind a label's name".into());
        };
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("does not begin with a label's name, which has letters, digits and \"_\"".into());
        }
        if name == "status" {
            return Err("names the status, which is no label: a silence lasts over the whole of an incident".into());
        }
        let value = match value.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => value.to_owned(),
        };
        let value = if is_regex { Value::Like(value.clone(), compiled(&value)?) } else { Value::Equal(value) };
        Ok(Self { name: name.to_owned(), negated, value })
    }
}

/// What stands in quotes, from behind the first of them.
fn unquoted(text: &str) -> Result<String, String> {
    let mut value = String::with_capacity(text.len());
    let mut characters = text.chars();
    loop {
        match characters.next() {
            None => return Err("holds a quote that does not end".into()),
            Some('"') if characters.as_str().is_empty() => return Ok(value),
            Some('"') => return Err("goes on behind the closing quote".into()),
            Some('\\') => match characters.next() {
                Some('n') => value.push('\n'),
                Some(quoted @ ('"' | '\\')) => value.push(quoted),
                // As in `\d` of an expression.
                Some(other) => value.extend(['\\', other]),
                None => return Err("holds a quote that does not end".into()),
            },
            Some(other) => value.push(other),
        }
    }
}

/// For the whole value, in bounded time and memory.
fn compiled(text: &str) -> Result<Regex, String> {
    let build =
        |text: &str| RegexBuilder::new(text).size_limit(MAX_PATTERN).nest_limit(MAX_NESTING).dot_matches_new_line(true).build();
    // By itself first: a parenthesis too many must not close the group.
    build(text).and_then(|_| build(&format!("^(?:{text})$"))).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "takes more than 1 MiB when compiled".into(),
        // A drawing of the expression with the fault marked, and the reason in its last line.
        error => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            format!("is not a regular expression ({})", reason.strip_prefix("error: ").unwrap_or(reason))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_is_read_and_written() {
        for (text, written, matching, other) in [
            ("mount=/var", r#"mount="/var""#, "/var", "/var/log"),
            ("mount != /var ", r#"mount!="/var""#, "/var/log", "/var"),
            ("mount=~/var.*", r#"mount=~"/var.*""#, "/var/log", "/srv/var"),
            ("mount!~/var", r#"mount!~"/var""#, "/var/log", "/var"),
            (r#"comm="a \"b\" \\ c""#, r#"comm="a \"b\" \\ c""#, r#"a "b" \ c"#, "a"),
            (r#"comm=~"\d+""#, r#"comm=~"\\d+""#, "12", "12a"),
            ("comm=~a|b", r#"comm=~"a|b""#, "b", "ab"),
            ("comm=~.*x", r#"comm=~".*x""#, "a\nx", "y"),
            ("comm=\"~x\"", r#"comm="~x""#, "~x", "x"),
            ("comm=", r#"comm="""#, "", "x"),
            ("comm=ä = ö", r#"comm="ä = ö""#, "ä = ö", "ä"),
        ] {
            let matcher: Matcher = text.parse().unwrap();
            assert_eq!(matcher.to_string(), written, "{text}");
            assert_eq!(matcher.to_string().parse::<Matcher>().unwrap(), matcher, "{text}");
            assert!(matcher.is_match(matching) && !matcher.is_match(other), "{text}");
        }
    }

    #[test]
    fn what_is_no_matcher_is_refused() {
        for (text, reason) in [
            ("", "holds no ="),
            ("mount", "holds no ="),
            ("=x", "does not begin with"),
            ("1a=x", "does not begin with"),
            ("a-b=x", "holds no ="),
            ("status=firing", "names the status"),
            ("mount=~(", "is not a regular expression (unclosed group)"),
            ("mount=~a)|(b", "is not a regular expression (unopened group)"),
            (r"mount=~\w{500}{500}", "takes more than 1 MiB"),
            ("mount=\"/var", "does not end"),
            ("mount=\"/var\" x", "goes on behind"),
            ("mount=\"/var\\", "does not end"),
        ] {
            let error = text.parse::<Matcher>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
