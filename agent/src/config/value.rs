//! One value of the document: its TOML type, `${NAME}`, and how it is quoted in a problem.
//!
//! What a problem shows is the file's own text, before variables are put in, and of a secret nothing.

use std::borrow::Cow;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::Path;

use toml::de::{DeArray, DeTable, DeValue};

use super::secret;

/// Most of a value that a problem quotes, in characters.
const MAX_QUOTED: usize = 64;

/// What a key accepts, in the words of problems.
pub(super) struct Form {
    /// The TOML type, with an article.
    pub(super) kind: &'static str,
    /// What to write.
    pub(super) right: String,
    secret: bool,
}

impl Form {
    pub(super) fn new(kind: &'static str, right: impl Into<String>) -> Self {
        Self { kind, right: right.into(), secret: false }
    }

    /// A form whose values are never shown.
    pub(super) fn secret(kind: &'static str, right: impl Into<String>) -> Self {
        Self { secret: true, ..Self::new(kind, right) }
    }

    /// Says that the key may also be left out.
    pub(super) fn optional(mut self) -> Self {
        self.right.push_str(", or leave the key out");
        self
    }
}

/// A value on its way to what it means.
pub(super) struct Value<'a, 'f> {
    value: &'a DeValue<'a>,
    form: &'f Form,
    env: &'f dyn Fn(&str) -> Option<String>,
}

/// A string with its variables put in.
pub(super) struct Text<'a> {
    /// The string.
    pub(super) value: Cow<'a, str>,
    /// What a problem calls it.
    shown: String,
}

impl<'a, 'f> Value<'a, 'f> {
    pub(super) fn new(value: &'a DeValue<'a>, form: &'f Form, env: &'f dyn Fn(&str) -> Option<String>) -> Self {
        Self { value, form, env }
    }

    /// The problem of a value whose TOML type is another.
    pub(super) fn wrong_type(&self) -> String {
        let found = match self.value {
            DeValue::Array(_) => "an array".into(),
            DeValue::Table(_) => "a table".into(),
            DeValue::Datetime(_) => "a date-time".into(),
            value if self.form.secret => format!("{} {}", article(value), value.type_str()),
            DeValue::String(text) => format!("a string {}", quoted(text)),
            DeValue::Integer(number) => format!("an integer {}", cut(&number.to_string())),
            DeValue::Float(number) => format!("a float {}", cut(number.as_str())),
            DeValue::Boolean(truth) => format!("a boolean {truth}"),
        };
        format!("expected {}, found {found}; write {}", self.form.kind, self.form.right)
    }

    fn wrong(&self, what: impl std::fmt::Display) -> String {
        format!("{what}; write {}", self.form.right)
    }

    pub(super) fn boolean(&self) -> Result<bool, String> {
        self.value.as_bool().ok_or_else(|| self.wrong_type())
    }

    pub(super) fn integer(&self, range: &RangeInclusive<u64>) -> Result<u64, String> {
        let number = self.value.as_integer().ok_or_else(|| self.wrong_type())?;
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok();
        value.filter(|value| range.contains(value)).ok_or_else(|| self.out_of_range(&number.to_string()))
    }

    /// A number with or without a fraction. Infinity and NaN are in no range.
    pub(super) fn number(&self, range: &(Bound<f64>, Bound<f64>)) -> Result<f64, String> {
        let text = match self.value {
            DeValue::Float(number) => Cow::Borrowed(number.as_str()),
            DeValue::Integer(number) if number.radix() == 10 => Cow::Borrowed(number.as_str()),
            DeValue::Integer(number) => Cow::Owned(number.to_string()),
            _ => return Err(self.wrong_type()),
        };
        text.parse().ok().filter(|value| range.contains(value)).ok_or_else(|| self.out_of_range(&text))
    }

    fn out_of_range(&self, number: &str) -> String {
        self.wrong(format_args!("{} is out of range", cut(number)))
    }

    pub(super) fn array(&self, longest: usize) -> Result<&'a DeArray<'a>, String> {
        let array = self.value.as_array().ok_or_else(|| self.wrong_type())?;
        if array.len() > longest {
            return Err(format!("holds {} elements; write at most {longest}", array.len()));
        }
        Ok(array)
    }

    pub(super) fn table(&self) -> Result<&'a DeTable<'a>, String> {
        self.value.as_table().ok_or_else(|| self.wrong_type())
    }

    /// A string, variables put in; a secret may be in a file that is named instead.
    pub(super) fn text(&self) -> Result<Text<'a>, String> {
        let raw = self.value.as_str().ok_or_else(|| self.wrong_type())?;
        // Only where the configuration itself says so: a secret in a variable may begin like that.
        if let Some(path) = raw.strip_prefix(secret::FILE).filter(|_| self.form.secret) {
            let value = secret::from_file(Path::new(&*expand(path, self.env)?));
            let shown = quoted(path);
            return match value {
                Ok(value) => Ok(Text { value: value.into(), shown: format!("the content of {shown}") }),
                Err(reason) => Err(format!("cannot take the secret from {shown}: {reason}")),
            };
        }
        let shown = if self.form.secret { "the value".into() } else { quoted(raw) };
        Ok(Text { value: expand(raw, self.env)?, shown })
    }

    /// A string that `convert` takes. Its error continues the sentence "the value …" and must not quote the value.
    pub(super) fn text_as<T>(&self, convert: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
        let text = self.text()?;
        convert(&text.value).map_err(|reason| self.wrong(format_args!("{} {reason}", text.shown)))
    }

    /// As [`text_as`](Self::text_as), of a text that may be quoted in part: `convert` is told whether that is so, which it is unless a
    /// variable was put in.
    pub(super) fn template_as<T>(&self, convert: impl FnOnce(&str, bool) -> Result<T, String>) -> Result<T, String> {
        let text = self.text()?;
        let may_quote = matches!(text.value, Cow::Borrowed(_));
        convert(&text.value, may_quote).map_err(|reason| self.wrong(format_args!("{} {reason}", text.shown)))
    }

    /// As [`text_as`](Self::text_as); an integer, too, is taken as the string of its digits.
    pub(super) fn id_as<T>(&self, convert: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
        match self.value {
            DeValue::Integer(number) if number.radix() == 10 => {
                convert(number.as_str()).map_err(|reason| self.wrong(format_args!("{} {reason}", cut(number.as_str()))))
            }
            _ => self.text_as(convert),
        }
    }

    /// As [`text_as`](Self::text_as); a date-time of TOML, too, is taken as the string that it is written as.
    pub(super) fn time_as<T>(&self, convert: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
        match self.value {
            DeValue::Datetime(time) => {
                let text = time.to_string();
                convert(&text).map_err(|reason| self.wrong(format_args!("{text} {reason}")))
            }
            _ => self.text_as(convert),
        }
    }

    /// Whether it is an integer.
    pub(super) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }
}

fn article(value: &DeValue<'_>) -> &'static str {
    if value.is_integer() { "an" } else { "a" }
}

/// On one line, without control characters, and not endlessly.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

fn cut(number: &str) -> Cow<'_, str> {
    match number.get(..MAX_QUOTED) {
        Some(start) if start.len() < number.len() => format!("{start}…").into(),
        _ => number.into(),
    }
}

/// Puts in the variable for each `${NAME}`; `$${` is a literal `${`, and any other `$` is itself. What a variable holds is
/// not looked into again.
fn expand<'a>(text: &'a str, env: &dyn Fn(&str) -> Option<String>) -> Result<Cow<'a, str>, String> {
    if !text.contains("${") {
        return Ok(text.into());
    }
    let mut expanded = String::with_capacity(text.len());
    let mut missing = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let name = after.split_once('}').filter(|(name, _)| is_variable(name));
        let Some((name, after)) = name else {
            return Err("holds \"${\" without a variable's name and \"}\"; write ${NAME}, or $${ for the characters ${".into());
        };
        match env(name) {
            Some(value) => expanded.push_str(&value),
            None if missing.contains(&name) => {}
            None => missing.push(name),
        }
        rest = after;
    }
    expanded.push_str(rest);
    match missing.as_slice() {
        [] => Ok(expanded.into()),
        [name] => Err(format!("environment variable {name} is not set; set it where the agent is started")),
        names => Err(format!("environment variables {} are not set; set them where the agent is started", names.join(", "))),
    }
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "HOST").then(|| "db${HOST}1".into())
    }

    #[test]
    fn variables_are_put_in_once() {
        for (text, expanded) in [
            ("plain $ and $$ and } stay", "plain $ and $$ and } stay"),
            ("${HOST}", "db${HOST}1"),
            ("a-${HOST}-${HOST}.z", "a-db${HOST}1-db${HOST}1.z"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("^x$", "^x$"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), expanded, "{text}");
        }
    }

    #[test]
    fn every_missing_variable_is_named_once() {
        let error = expand("${A}${B}${A}${HOST}", &env).unwrap_err();
        assert_eq!(error, "environment variables A, B are not set; set them where the agent is started");
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for text in ["${", "${}", "${A", "${A B}", "${1A}", "${A${HOST}}"] {
            assert!(expand(text, &env).unwrap_err().starts_with("holds \"${\""), "{text}");
        }
    }

    #[test]
    fn quotes_are_short_and_on_one_line() {
        assert_eq!(quoted("a\n\u{1b}[31m"), r#""a\n\u{1b}[31m""#);
        assert_eq!(quoted(&"ä".repeat(1000)), format!("\"{}\"…", "ä".repeat(MAX_QUOTED)));
    }
}
