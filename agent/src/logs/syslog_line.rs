//! Lines of syslog: RFC 3164 as files hold it, with a classic or an ISO time, and RFC 5424; also what `journalctl -o short` prints.

use std::borrow::Cow;

use jiff::civil;
use jiff::tz::TimeZone;

use super::dmesg_line;
use crate::model::Timestamp;

/// A line, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// Facility times 8 plus severity, where the line says so.
    pub priority: Option<u8>,
    /// When it was written.
    pub stamp: Stamp<'a>,
    /// The program that wrote it; empty where the line names none.
    pub program: &'a str,
    /// Whether that is the kernel. Files do not say how a line came into them, so whoever may write to syslog can claim it.
    pub is_kernel: bool,
    /// What the kernel wrote, or `NAME[PID]: message` of anybody else.
    pub text: Cow<'a, str>,
}

/// A time as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stamp<'a> {
    /// `2026-11-21T16:52:04.123456+00:00`, also with a comma, and without an offset.
    Iso(&'a str),
    /// `Nov 21 16:52:04`, of the local zone and the year in which that was last.
    Local(&'a str),
    /// The same, and the year.
    Dated(&'a str, &'a str),
    /// Seconds since the boot.
    Uptime(f64),
    /// Not at all.
    None,
}

impl Stamp<'_> {
    /// The time, where it can be known. `now` says which year it is.
    pub fn at(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let time = match self {
            Self::Iso(text) => {
                let text = text.replace(',', ".");
                match text.parse::<jiff::Timestamp>() {
                    Ok(time) => time,
                    Err(_) => text.parse::<civil::DateTime>().ok()?.to_zoned(zone.clone()).ok()?.timestamp(),
                }
            }
            Self::Local(text) => {
                let now = jiff::Timestamp::from_nanosecond(i128::from(now.as_nanos())).ok()?;
                let year = now.to_zoned(zone.clone()).year();
                let of = |year: i16| Some(date_time(text, year)?.to_zoned(zone.clone()).ok()?.timestamp());
                // A line of December that is read in January; one of tomorrow was written where clocks or zones differ.
                let tomorrow = now.checked_add(jiff::SignedDuration::from_hours(24)).ok()?;
                of(year).filter(|time| *time <= tomorrow).or_else(|| of(year.checked_sub(1)?))?
            }
            Self::Dated(text, year) => date_time(text, year.parse().ok()?)?.to_zoned(zone.clone()).ok()?.timestamp(),
            Self::Uptime(_) | Self::None => return None,
        };
        i64::try_from(time.as_nanosecond()).ok().map(Timestamp::from_nanos)
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Nov 21 16:52:04`
fn date_time(text: &str, year: i16) -> Option<civil::DateTime> {
    let mut words = text.split_ascii_whitespace();
    let month = words.next()?;
    let month = i8::try_from(MONTHS.iter().position(|name| *name == month)? + 1).ok()?;
    let day = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(|number| number.parse::<i8>().ok());
    let mut number = || time.next().flatten();
    civil::DateTime::new(year, month, day, number()?, number()?, number()?, 0).ok()
}

/// Whether it begins as `2026-11-21T16:52:04` does.
pub(super) fn civil(text: &str) -> bool {
    let shape = b"dddd-dd-ddTdd:dd:dd";
    text.len() >= shape.len()
        && text.bytes().zip(shape).all(|(byte, expected)| match expected {
            b'd' => byte.is_ascii_digit(),
            b'T' => byte == b'T' || byte == b' ',
            expected => byte == *expected,
        })
}

/// Takes a line apart; `None` where it is not one of syslog.
pub fn parse(line: &str) -> Option<Line<'_>> {
    let (priority, rest) = priority(line).map_or((None, line), |(priority, rest)| (Some(priority), rest));
    if priority.is_some()
        && let Some(rest) = rest.strip_prefix("1 ")
    {
        return structured(priority, rest);
    }
    let (stamp, rest) = stamp(rest)?;
    let (host, content) = rest.split_once(' ')?;
    // Some leave the host out.
    let content = if host.ends_with(':') { rest } else { content };
    let program = program(content).unwrap_or_default();
    // With a priority, the facility says whether it is the kernel's.
    let is_kernel = program == "kernel" && priority.is_none_or(|priority| priority < 8);
    let text = if is_kernel {
        let message = content.split_once(':').map_or("", |(_, message)| message);
        dmesg_line::without_time(message.strip_prefix(' ').unwrap_or(message))
    } else {
        content
    };
    Some(Line { priority, stamp, program, is_kernel, text: text.into() })
}

/// `<13>`, at most 191.
fn priority(line: &str) -> Option<(u8, &str)> {
    let (digits, rest) = line.strip_prefix('<')?.split_once('>')?;
    (1..=3).contains(&digits.len()).then_some(())?;
    digits.parse().ok().filter(|priority| *priority <= 191).map(|priority| (priority, rest))
}

/// The time, and what is behind it and a space.
fn stamp(line: &str) -> Option<(Stamp<'_>, &str)> {
    if civil(line) {
        let (time, rest) = line.split_once(' ')?;
        return Some((Stamp::Iso(time), rest));
    }
    // `Nov  1 16:52:04`, also with a fraction.
    let time = line.get(..15)?;
    let is_time = MONTHS.iter().any(|month| time.starts_with(month)) && time.as_bytes().get(9) == Some(&b':');
    let (_, rest) = line.get(15..)?.split_once(' ')?;
    is_time.then_some((Stamp::Local(time), rest))
}

/// The name before `[pid]:` or `:`.
fn program(content: &str) -> Option<&str> {
    let end = content.find(['[', ':', ' '])?;
    let (name, rest) = content.split_at(end);
    (!name.is_empty() && !rest.starts_with(' ')).then_some(name)
}

/// RFC 5424 behind the version: `TIME HOST APP PROCID MSGID STRUCTURED-DATA MESSAGE`.
fn structured(priority: Option<u8>, rest: &str) -> Option<Line<'_>> {
    let mut fields = rest.splitn(6, ' ');
    let time = fields.next()?;
    let _host = fields.next()?;
    let (program, process, _id, rest) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let message = match rest.strip_prefix('-') {
        Some(message) => message,
        None => rest.get(data_len(rest)?..)?,
    };
    // rsyslog keeps the space that stood behind the tag of a message of RFC 3164.
    let message = message.trim_start_matches([' ', '\u{feff}']);
    let is_kernel = program == "kernel" && priority.is_some_and(|priority| priority < 8);
    let text = match (is_kernel, program, process) {
        (true, _, _) => dmesg_line::without_time(message).into(),
        (_, "-", _) => message.into(),
        (_, program, "-") => format!("{program}: {message}").into(),
        (_, program, process) => format!("{program}[{process}]: {message}").into(),
    };
    let stamp = if civil(time) { Stamp::Iso(time) } else { Stamp::None };
    Some(Line { priority, stamp, program: if program == "-" { "" } else { program }, is_kernel, text })
}

/// Bytes of `[id name="value"][…]`, in which `]`, `"` and `\` of a value stand behind a backslash.
fn data_len(text: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'[') {
        return None;
    }
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b']' if !is_quoted && bytes.get(at + 1) != Some(&b'[') => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_apart(line: &str) -> (Option<u8>, String, bool, String) {
        let line = parse(line).unwrap_or_else(|| panic!("{line}"));
        (line.priority, line.program.into(), line.is_kernel, line.text.into_owned())
    }

    fn is(priority: Option<u8>, program: &str, is_kernel: bool, text: &str) -> (Option<u8>, String, bool, String) {
        (priority, program.into(), is_kernel, text.into())
    }

    #[test]
    fn files_with_both_times() {
        for time in ["Nov  1 16:52:04", "Nov 21 16:52:04.123456", "2026-11-21T16:52:04.123456+00:00", "2026-11-21T16:52:04+0000"]
        {
            let line = |rest: &str| taken_apart(&format!("{time} web-01 {rest}"));
            assert_eq!(line("sshd[12]: Failed password"), is(None, "sshd", false, "sshd[12]: Failed password"));
            assert_eq!(line("kernel: [   12.345678] BUG: x"), is(None, "kernel", true, "BUG: x"));
            assert_eq!(line("kernel: BUG: x"), is(None, "kernel", true, "BUG: x"));
            assert_eq!(line("kernel: [drm] x"), is(None, "kernel", true, "[drm] x"));
            assert_eq!(line("my-kernel: BUG: x"), is(None, "my-kernel", false, "my-kernel: BUG: x"));
            assert_eq!(line("oom: kernel: BUG: x"), is(None, "oom", false, "oom: kernel: BUG: x"));
            assert_eq!(line("message without a tag"), is(None, "", false, "message without a tag"));
        }
    }

    #[test]
    fn a_line_may_name_no_host() {
        assert_eq!(taken_apart("Nov 21 16:52:04 kernel: BUG: x"), is(None, "kernel", true, "BUG: x"));
        assert_eq!(taken_apart("Nov 21 16:52:04 app[7]: x: y"), is(None, "app", false, "app[7]: x: y"));
    }

    #[test]
    fn messages_with_a_priority() {
        assert_eq!(taken_apart("<4>Nov 21 16:52:04 h kernel: BUG: x"), is(Some(4), "kernel", true, "BUG: x"));
        // A process that calls itself the kernel.
        assert_eq!(taken_apart("<13>Nov 21 16:52:04 h kernel: BUG: x"), is(Some(13), "kernel", false, "kernel: BUG: x"));
    }

    #[test]
    fn rfc_5424() {
        let line = |rest: &str| taken_apart(&format!("<165>1 2026-11-21T16:52:04.003Z h {rest}"));
        assert_eq!(line("app 12 ID47 - text"), is(Some(165), "app", false, "app[12]: text"));
        assert_eq!(line("app - - - \u{feff}text"), is(Some(165), "app", false, "app: text"));
        assert_eq!(line("app 12 - -  text"), is(Some(165), "app", false, "app[12]: text"));
        assert_eq!(line("- - - -"), is(Some(165), "", false, ""));
        assert_eq!(line(r#"app 1 - [a@1 b="c] \" \\"][d e="f"] text"#), is(Some(165), "app", false, "app[1]: text"));
        assert_eq!(taken_apart("<4>1 2026-11-21T16:52:04Z h kernel - - - [ 1.5] BUG: x"), is(Some(4), "kernel", true, "BUG: x"));
        assert_eq!(parse(r#"<165>1 2026-11-21T16:52:04Z h app 1 - [a b="c"#), None);
    }

    #[test]
    fn what_is_not_syslog_is_none() {
        for line in
            ["", "x", "<", "<999>Nov 21 16:52:04 h x: y", "Nov 21", "Xyz 21 16:52:04 h x: y", "2026-11-21", "Növ 21 16:52:04 h x"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn times_are_of_the_year_in_which_they_were_last() {
        let (now, utc) = (Timestamp::from_secs(1_767_312_000), TimeZone::UTC); // 2026-01-02 00:00:00
        let at = |time: &str| Stamp::Local(time).at(now, &utc).map(|at| at.as_nanos() / 1_000_000_000);
        assert_eq!(at("Jan  1 00:00:01"), Some(1_767_225_601));
        assert_eq!(at("Dec 31 23:59:59"), Some(1_767_225_599));
        assert_eq!(at("Feb 30 00:00:00"), None);
        let iso =
            |time: &str| Stamp::Iso(time).at(now, &TimeZone::fixed(jiff::tz::offset(2))).map(|at| at.as_nanos() / 1_000_000_000);
        assert_eq!(iso("2026-01-01T00:00:00+0000"), Some(1_767_225_600));
        assert_eq!(iso("2026-01-01T00:00:00Z"), Some(1_767_225_600));
        assert_eq!(iso("2026-01-01T02:00:00.5"), Some(1_767_225_600));
        assert_eq!(iso("2026-13-01T02:00:00"), None);
    }
}
