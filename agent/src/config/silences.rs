//! The keys of `[[alerting.silences]]`: which alerts, and either one time or a window of the week.

use super::reader::{MAX_LIST, Section};
use super::text;
use super::value::{Form, Value};
use crate::model::{Matcher, Silence, Timestamp, Weekday, Window, minute_of_day, time};

/// Who made the silences of the configuration.
const CREATED_BY: &str = "config";

const MATCHER: &str = "a matcher such as \"metric=disk_usage_percent\", \"mount!=/\", \"comm=~backup.*\" or \"cgroup!~/user.*\"";
const TIME: &str = "a time of RFC 3339 such as \"2026-03-01T22:00:00+01:00\"";
const TIME_OF_DAY: &str = "a time of day such as \"22:30\"";
const ONCE: [&str; 2] = ["starts", "ends"];
const WEEKLY: [&str; 4] = ["days", "from", "to", "time_zone"];

pub(super) fn silences(s: &mut Section<'_>) -> Vec<Silence> {
    let table = "{ matchers = [\"…\"], starts = \"…\", ends = \"…\" }";
    let tables = Form::new("an array of tables", format!("a list of {table}"));
    let mut number = 0;
    let read = |s: &mut Section<'_>| {
        number += 1;
        silence(s, number)
    };
    s.tables("silences", &tables, &Form::new("a table", table), read).unwrap_or_default()
}

fn silence(s: &mut Section<'_>, number: usize) -> Option<Silence> {
    let matchers = matchers(s);
    let [starts, ends] = ONCE.map(|key| instant(s, key));
    let days = s.choices("days", &Weekday::NAMES, Vec::new());
    let [from, to] = ["from", "to"].map(|key| s.optional(key, TIME_OF_DAY, minute_of_day));
    let zone = s.optional("time_zone", "a name of the IANA time zone database such as \"Europe/Berlin\"", text::time_zone);
    let comment = s.string("comment", "one line of text", text::line_or_empty, String::new());
    let once = ONCE.into_iter().find(|key| s.has(key));
    let weekly = WEEKLY.into_iter().find(|key| s.has(key));
    let window = match (once, weekly) {
        (Some(_), Some(weekly)) => {
            let form = Form::new("a string", "either starts and ends, or the keys of a weekly window");
            s.lacks(weekly, "is of a weekly window, and there is a single time, too", &form);
            None
        }
        (Some(_), None) => {
            let form = Form::new("a string", TIME);
            both(s, ONCE, &form);
            starts.zip(ends).and_then(|(starts, ends)| ordered(s, "ends", Window::once(starts, ends), TIME))
        }
        (None, Some(_)) => {
            let form = Form::new("a string", TIME_OF_DAY);
            both(s, ["from", "to"], &form);
            let window = |(from, to)| ordered(s, "to", Window::weekly(days, from, to, zone.as_deref()), TIME_OF_DAY);
            from.zip(to).and_then(window)
        }
        (None, None) => {
            let form = Form::new("a table", "starts and ends, or from and to");
            s.lacks("starts", "is missing, and so is the time of a weekly window", &form);
            None
        }
    };
    let id = format!("{CREATED_BY}-{number}");
    Some(Silence { id, matchers: matchers?, window: window?, comment, created_by: CREATED_BY.into() })
}

fn matchers(s: &mut Section<'_>) -> Option<Vec<Matcher>> {
    let list = Form::new("an array of strings", format!("a list of 1 to {MAX_LIST} strings, each {MATCHER}"));
    let element = Form::new("a string", MATCHER);
    let matchers = s.list("matchers", &list, &element, |value: &Value<'_, '_>| value.text_as(str::parse::<Matcher>));
    match &matchers {
        None if !s.has("matchers") => s.lacks("matchers", "is missing", &list),
        Some(matchers) if matchers.is_empty() => s.lacks("matchers", "is empty", &list),
        Some(matchers) => {
            let form = Form::new("an array of strings", "one that does not, such as \"metric=~.+\"");
            Silence::means_something(matchers).map_err(|reason| s.lacks("matchers", &reason, &form)).ok()?;
        }
        None => {}
    }
    matchers
}

fn instant(s: &mut Section<'_>, key: &'static str) -> Option<Timestamp> {
    s.read(key, &Form::new("a string or a date-time", TIME), |value| value.time_as(time))
}

/// Reports the key that is missing where the other is there.
fn both(s: &Section<'_>, keys: [&'static str; 2], form: &Form) {
    for key in keys.into_iter().filter(|key| !s.has(key)) {
        s.lacks(key, "is missing", form);
    }
}

fn ordered(s: &Section<'_>, key: &str, window: Result<Window, String>, right: &'static str) -> Option<Window> {
    window.map_err(|reason| s.lacks(key, &reason, &Form::new("a string", right))).ok()
}
