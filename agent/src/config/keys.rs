//! The getters of a [`Section`]: one for each kind of value that a key can have.
//!
//! Each takes the key, its range and its default. A value that is refused is reported and the default returned, which
//! nobody sees: a configuration with a problem is never handed out.

use std::ops::{Bound, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{MAX_LIST, Section};
use super::value::Form;
use super::{Pattern, Secret, templates, text};
use crate::model::{Severities, Severity};

/// Above `.0`, and up to and with `.1`.
fn above(low: f64, high: f64) -> (Bound<f64>, Bound<f64>) {
    (Bound::Excluded(low), Bound::Included(high))
}

impl Section<'_> {
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.read(key, &Form::new("a boolean", "true or false"), |value| value.boolean()).unwrap_or(default)
    }

    fn whole(&mut self, key: &'static str, kind: &'static str, unit: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let form = Form::new(kind, format!("a whole number{unit} from {} to {}", range.start(), range.end()));
        self.read(key, &form, |value| value.integer(&range))
    }

    pub(super) fn integer<T: TryFrom<u64>>(&mut self, key: &'static str, range: RangeInclusive<u64>, default: T) -> T {
        self.whole(key, "an integer", "", range).and_then(|value| value.try_into().ok()).unwrap_or(default)
    }

    /// MiB in the file, bytes here.
    pub(super) fn mebibytes(&mut self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let value = self.whole(key, "an integer (MiB)", " of MiB", range);
        value.and_then(|value| value.checked_mul(1 << 20)).unwrap_or(default)
    }

    pub(super) fn millis(&mut self, key: &'static str, range: RangeInclusive<u64>, default: Duration) -> Duration {
        self.whole(key, "an integer (milliseconds)", " of milliseconds", range).map_or(default, Duration::from_millis)
    }

    pub(super) fn secs(&mut self, key: &'static str, range: RangeInclusive<u64>, default: Duration) -> Duration {
        self.whole(key, "an integer (seconds)", " of seconds", range).map_or(default, Duration::from_secs)
    }

    pub(super) fn minutes(&mut self, key: &'static str, range: RangeInclusive<u64>, default: Duration) -> Duration {
        self.long(key, "an integer (minutes)", " of minutes", 60, range, default)
    }

    pub(super) fn hours(&mut self, key: &'static str, range: RangeInclusive<u64>, default: Duration) -> Duration {
        self.long(key, "an integer (hours)", " of hours", 3600, range, default)
    }

    pub(super) fn days(&mut self, key: &'static str, range: RangeInclusive<u64>, default: Duration) -> Duration {
        self.long(key, "an integer (days)", " of days", 86_400, range, default)
    }

    fn long(
        &mut self,
        key: &'static str,
        kind: &'static str,
        unit: &str,
        secs: u64,
        range: RangeInclusive<u64>,
        default: Duration,
    ) -> Duration {
        let value = self.whole(key, kind, unit, range);
        value.and_then(|value| value.checked_mul(secs)).map_or(default, Duration::from_secs)
    }

    /// Above 0, up to 100.
    pub(super) fn percent(&mut self, key: &'static str, default: f64) -> f64 {
        self.number(key, "a number (percent)", "a percentage above 0, at most 100", above(0.0, 100.0), default)
    }

    /// From `low` up to 100.
    pub(super) fn percent_from(&mut self, key: &'static str, low: f64, default: f64) -> f64 {
        let range = (Bound::Included(low), Bound::Included(100.0));
        self.number(key, "a number (percent)", &format!("a percentage from {low} to 100"), range, default)
    }

    /// Above 0, up to 1.
    pub(super) fn ratio(&mut self, key: &'static str, default: f64) -> f64 {
        self.number(key, "a number (ratio)", "a ratio above 0, at most 1", above(0.0, 1.0), default)
    }

    /// Above 0, up to `high`.
    pub(super) fn positive(&mut self, key: &'static str, high: f64, default: f64) -> f64 {
        self.number(key, "a number", &format!("a number above 0, at most {high}"), above(0.0, high), default)
    }

    /// Any number, or none.
    pub(super) fn limit(&mut self, key: &'static str) -> Option<f64> {
        let any = (Bound::Included(f64::MIN), Bound::Included(f64::MAX));
        self.read(key, &Form::new("a number", "a number").optional(), |value| value.number(&any))
    }

    pub(super) fn optional_secs(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Duration> {
        self.whole(key, "an integer (seconds)", " of seconds", range).map(Duration::from_secs)
    }

    fn number(
        &mut self,
        key: &'static str,
        kind: &'static str,
        right: &str,
        range: (Bound<f64>, Bound<f64>),
        default: f64,
    ) -> f64 {
        self.read(key, &Form::new(kind, right), |value| value.number(&range)).unwrap_or(default)
    }

    /// One of some names.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, names: &[(&str, T)], default: T) -> T {
        let form = Form::new("a string", one_of(names));
        self.read(key, &form, |value| value.text_as(|text| choose(text, names))).unwrap_or(default)
    }

    /// Some of some names, none of them twice.
    pub(super) fn choices<T: Copy + PartialEq>(&mut self, key: &'static str, names: &[(&str, T)], default: Vec<T>) -> Vec<T> {
        let form = Form::new("an array of strings", format!("a list of {}", one_of(names)));
        let mut seen = Vec::new();
        let chosen = self.list(key, &form, &Form::new("a string", one_of(names)), |value| {
            let chosen = value.text_as(|text| choose(text, names))?;
            if seen.contains(&chosen) {
                return Err("is listed twice; remove one of the two".into());
            }
            seen.push(chosen);
            Ok(chosen)
        });
        chosen.unwrap_or(default)
    }

    pub(super) fn severity(&mut self, key: &'static str, default: Severity) -> Severity {
        self.choice(key, &Severity::ALL.map(|severity| (severity.as_str(), severity)), default)
    }

    /// What a channel is sent: the `severities` that are listed, else `min_severity` and all that is worse.
    pub(super) fn severities(&mut self, mildest: Severity) -> Severities {
        let names = Severity::ALL.map(|severity| (severity.as_str(), severity));
        let mildest = self.severity("min_severity", mildest);
        let listed = self.choices("severities", &names, Vec::new());
        let form = Form::new("an array of strings", format!("a list of {}, or leave it out", one_of(&names)));
        if !self.has("severities") {
            return Severities::from(mildest);
        }
        if listed.is_empty() {
            self.lacks("severities", "names none", &form);
        }
        listed.into_iter().collect()
    }

    /// A severity without a default.
    pub(super) fn required_severity(&mut self, key: &'static str) -> Option<Severity> {
        let names = Severity::ALL.map(|severity| (severity.as_str(), severity));
        self.required(key, &Form::new("a string", one_of(&names)), |value| value.text_as(|text| choose(text, &names)))
    }

    /// A string that `check` takes, if the key is there. `right` says what it takes.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        right: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.read(key, &Form::new("a string", right).optional(), |value| value.text_as(check))
    }

    /// A string that `check` takes, with a default.
    pub(super) fn string<T>(
        &mut self,
        key: &'static str,
        right: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
        default: T,
    ) -> T {
        self.read(key, &Form::new("a string", right), |value| value.text_as(check)).unwrap_or(default)
    }

    /// A string that `check` takes and that must be there.
    pub(super) fn required_string<T>(
        &mut self,
        key: &'static str,
        right: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.required(key, &Form::new("a string", right), |value| value.text_as(check))
    }

    /// A string or an integer, taken as its digits.
    pub(super) fn required_id(
        &mut self,
        key: &'static str,
        right: &str,
        check: impl FnOnce(&str) -> Result<String, String>,
    ) -> Option<String> {
        self.required(key, &Form::new("a string or an integer", right), |value| value.id_as(check))
    }

    /// The template of a message; `makes_json` where what it makes must be JSON.
    pub(super) fn template(&mut self, key: &'static str, makes_json: bool) -> Option<String> {
        let form = Form::new("a string", "a Jinja template with the names that config.toml lists").optional();
        let check = |text: &str, may_quote: bool| {
            if text.trim().is_empty() {
                return Err("is empty".into());
            }
            templates::check(text, makes_json, may_quote)
        };
        self.read(key, &form, |value| value.template_as(check))
    }

    pub(super) fn path(&mut self, key: &'static str, default: PathBuf) -> PathBuf {
        self.string(key, "a path", text::path, default)
    }

    pub(super) fn optional_path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.optional(key, "a path", text::path)
    }

    /// A list of strings that `check` takes; there must be at least one.
    pub(super) fn required_strings<T>(
        &mut self,
        key: &'static str,
        right: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let list = Form::new("an array of strings", format!("a list of 1 to {MAX_LIST} strings, each {right}"));
        let strings = self.list(key, &list, &Form::new("a string", right), |value| value.text_as(&check));
        match &strings {
            Some(strings) if strings.is_empty() => self.lacks(key, "is empty", &list),
            None if !self.has(key) => self.lacks(key, "is missing", &list),
            _ => {}
        }
        strings
    }

    /// A list of strings that `check` takes.
    pub(super) fn strings<T>(
        &mut self,
        key: &'static str,
        longest: usize,
        right: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let list = Form::new("an array of strings", format!("a list of at most {longest} strings, each {right}"));
        let strings = self.list(key, &list, &Form::new("a string", right), |value| value.text_as(&check)).unwrap_or_default();
        if strings.len() > longest {
            self.lacks(key, &format!("holds {} elements", strings.len()), &list);
        }
        strings
    }

    /// A list of strings or integers, taken as their digits, that `check` takes.
    pub(super) fn ids(&mut self, key: &'static str, right: &str, check: impl Fn(&str) -> Result<String, String>) -> Vec<String> {
        let list = Form::new("an array of strings", format!("a list of at most {MAX_LIST} strings, each {right}"));
        self.list(key, &list, &Form::new("a string or an integer", right), |value| value.id_as(&check)).unwrap_or_default()
    }

    /// A list of regular expressions.
    pub(super) fn patterns(&mut self, key: &'static str, default: Vec<Pattern>) -> Vec<Pattern> {
        let list = Form::new("an array of strings", format!("a list of at most {MAX_LIST} strings, each {}", text::PATTERN));
        let element = Form::new("a string", text::PATTERN);
        self.list(key, &list, &element, |value| value.text_as(text::pattern)).unwrap_or(default)
    }

    /// A value that is never shown.
    pub(super) fn required_secret(
        &mut self,
        key: &'static str,
        right: &str,
        check: impl FnOnce(&str) -> Result<String, String>,
    ) -> Option<Secret> {
        self.required(key, &Form::secret("a string", right), |value| value.text_as(check)).map(Secret::new)
    }

    /// A value that is never shown, if the key is there.
    pub(super) fn optional_secret(
        &mut self,
        key: &'static str,
        right: &str,
        check: impl FnOnce(&str) -> Result<String, String>,
    ) -> Option<Secret> {
        self.read(key, &Form::secret("a string", right).optional(), |value| value.text_as(check)).map(Secret::new)
    }

    /// A list of values that are never shown.
    pub(super) fn secrets(
        &mut self,
        key: &'static str,
        longest: usize,
        right: &str,
        check: impl Fn(&str) -> Result<String, String>,
    ) -> Vec<Secret> {
        let list = Form::secret("an array of strings", format!("a list of 1 to {longest} strings, each {right}")).optional();
        let secrets = self.list(key, &list, &Form::secret("a string", right), |value| value.text_as(&check));
        if let Some(found) = secrets.as_ref().filter(|found| !(1..=longest).contains(&found.len())) {
            self.lacks(key, &format!("holds {} elements", found.len()), &list);
        }
        secrets.into_iter().flatten().map(Secret::new).collect()
    }

    /// A URL of the web, which may hold a login.
    pub(super) fn web_address(&mut self, key: &'static str, default: &str) -> Secret {
        let address = self.optional_secret(key, text::WEB_ADDRESS, text::web_address);
        address.unwrap_or_else(|| Secret::new(default.into()))
    }

    /// A 24-bit RGB colour, as an integer or as `"#rrggbb"`.
    pub(super) fn colour(&mut self, key: &'static str, default: u32) -> u32 {
        let form = Form::new("an integer or a string (colour)", "a colour such as \"#ff8800\" or 0xff8800");
        let colour =
            self.read(
                key,
                &form,
                |value| {
                    if value.is_integer() { value.integer(&(0..=0xff_ffff)) } else { value.text_as(text::colour) }
                },
            );
        colour.and_then(|colour| colour.try_into().ok()).unwrap_or(default)
    }
}

fn choose<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<T, String> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| "is unknown".into())
}

/// `"a", "b" or "c"`
fn one_of<T>(names: &[(&str, T)]) -> String {
    let mut words = String::new();
    for (index, (name, _)) in names.iter().enumerate() {
        words.push_str(match index {
            0 => "",
            _ if index + 1 == names.len() => " or ",
            _ => ", ",
        });
        words.push_str(&format!("\"{name}\""));
    }
    words
}
