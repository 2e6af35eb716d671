//! How values of an alert become text for humans: escaping, clipping, numbers, durations, times.
//!
//! Command names, command lines and log lines are written by whoever runs a process. Nothing here lets one of their bytes
//! move a cursor, end a line or change a colour.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::model::{Alert, Labels, Status, Timestamp, bytes};

/// Whether a character acts on a terminal or reorders the line it stands in: C0, DEL, C1, line and paragraph separators, and
/// the directional controls of Unicode's annex 9.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `text` with every character that [acts](acts) written as its escape. A backslash stays as it is: systemd's unit names
/// are full of them, and have to be pasted into other commands.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// The start of `text` in at most `max` bytes, ended by a mark where something is missing.
pub(super) fn clip(text: &str, max: usize) -> Cow<'_, str> {
    const MARK: &str = "…";
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(max.saturating_sub(MARK.len()));
    let mut clipped = String::with_capacity(end + MARK.len());
    clipped.push_str(text.get(..end).unwrap_or_default());
    clipped.push_str(MARK);
    Cow::Owned(clipped)
}

/// Appends `name=value` as logfmt does: a value with spaces, quotes or equals signs, or without any character, is quoted.
pub(super) fn push_pair(line: &mut String, name: &str, value: &str, max: usize) {
    let clipped = clip(value, max);
    let value = escape(&clipped);
    let _ = write!(line, "{}=", escape(name));
    if !value.is_empty() && !value.contains([' ', '"', '=']) {
        line.push_str(&value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        if c == '"' {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
}

/// All labels as pairs, each after a space.
pub(super) fn push_labels(line: &mut String, labels: &Labels, max: usize) {
    for (name, value) in labels.iter() {
        line.push(' ');
        push_pair(line, name, value, max);
    }
}

/// A number with at most three decimals where it has an integer part, and as many as it needs where it has none.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    if value.abs() >= 1.0 && rounded.is_finite() { rounded.to_string() } else { value.to_string() }
}

/// A number with the unit that the end of its name states.
pub fn quantity(name: &str, value: f64) -> String {
    if name.ends_with("_percent") {
        return format!("{}%", number(value));
    }
    if name.ends_with("_seconds") {
        return format!("{} s", number(value));
    }
    if !name.ends_with("_bytes") || value.abs() < 1024.0 {
        return number(value);
    }
    bytes(value)
}

/// The two largest units of a duration: `45s`, `5m 30s`, `3d 4h`.
pub fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m {}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h {}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d {}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

/// The time as it reads on a clock of that zone. A time outside the calendar's years reads as the epoch.
pub(super) fn zoned(at: Timestamp, zone: &TimeZone) -> Zoned {
    jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_zoned(zone.clone())
}

/// The time as machines read it (RFC 3339), to the millisecond.
pub(super) fn rfc3339(at: Timestamp, zone: &TimeZone) -> String {
    zoned(at, zone).strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

/// What stands before the message of an alert that is not new.
pub(super) fn prefix(alert: &Alert) -> &'static str {
    match alert.status {
        Status::Firing => "",
        Status::Updated => "[UPDATED] ",
        Status::Resolved => "[RESOLVED] ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_written_as_its_escape() {
        assert_eq!(escape("a\x1b[31mb\r\n\t\x07\u{9b}2J\x7f\0"), r"a\u{1b}[31mb\r\n\t\u{7}\u{9b}2J\u{7f}\u{0}");
        assert_eq!(escape("gpj.\u{202e}exe\u{2028}"), r"gpj.\u{202e}exe\u{2028}");
        assert!(matches!(escape(r"/system.slice/dev-sda\x2d1 é \u{fffd}"), Cow::Borrowed(_)));
    }

    #[test]
    fn clipping_keeps_the_limit_and_the_characters() {
        for max in 3..12 {
            let clipped = clip("äöüäöüäöü", max);
            assert!(clipped.len() <= max && clipped.ends_with('…'), "{max}: {clipped}");
        }
        assert_eq!(clip("abc", 3), "abc");
    }

    #[test]
    fn pairs_are_quoted_where_they_would_be_ambiguous() {
        let mut line = String::new();
        for value in ["plain", "", "two words", r#"say "hi""#, "a=b", "line\nbreak"] {
            push_pair(&mut line, "k", value, 64);
            line.push(' ');
        }
        assert_eq!(line, r#"k=plain k="" k="two words" k="say \"hi\"" k="a=b" k=line\nbreak "#);
    }

    #[test]
    fn numbers_and_durations_are_short() {
        assert_eq!([90.0, 95.234_567, 0.000_012, -2.0].map(number), ["90", "95.235", "0.000012", "-2"]);
        assert_eq!(quantity("memory_used_bytes", 2_147_483_648.0), "2.0 GiB");
        assert_eq!(quantity("memory_used_bytes", 1023.0), "1023");
        assert_eq!(quantity("memory_used_bytes", f64::MAX).split(' ').next_back(), Some("PiB"));
        assert_eq!(quantity("cpu_usage_percent", 95.2), "95.2%");
        assert_eq!(quantity("disk_await_seconds", 0.25), "0.25 s");
        assert_eq!(quantity("kernel_oom_kill", 1.0), "1");
        let durations = [0, 59, 330, 3600, 100_000].map(|secs| duration(Duration::from_secs(secs)));
        assert_eq!(durations, ["0s", "59s", "5m 30s", "1h 0m", "1d 3h"]);
    }
}
