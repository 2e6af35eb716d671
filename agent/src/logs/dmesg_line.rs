//! Lines of the kernel as `dmesg` prints them, or as syslog writes them down: what stands before the text.

use super::syslog_line::{Stamp, civil};

/// A line of the kernel, taken apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// When it was written.
    pub stamp: Stamp<'a>,
    /// What the kernel wrote.
    pub text: &'a str,
}

/// Takes a line of `dmesg` apart: with `[seconds]` as by default and in syslog files, `[date]` as of `-T`, an ISO time, after
/// `<priority>` as of `-r` or `facility:level:` as of `-x`. `None` where it begins in no such way.
pub fn parse(line: &str) -> Option<Line<'_>> {
    let line = decoded(line).or_else(|| raw(line)).unwrap_or(line);
    let (stamp, text) = bracketed(line).or_else(|| iso(line))?;
    Some(Line { stamp, text: without_caller(text) })
}

/// The text of a line behind the time that the kernel itself put there, if it did.
pub fn without_time(text: &str) -> &str {
    match bracketed(text) {
        Some((Stamp::Uptime(_), rest)) => without_caller(rest),
        _ => text,
    }
}

/// Behind `<6>`.
fn raw(line: &str) -> Option<&str> {
    let (priority, rest) = line.strip_prefix('<')?.split_once('>')?;
    priority.parse::<u16>().ok().map(|_| rest)
}

/// Behind `kern  :info  : `.
fn decoded(line: &str) -> Option<&str> {
    let (facility, rest) = line.split_once(':')?;
    let (level, rest) = rest.split_once(": ")?;
    let is_name = |name: &str| {
        let name = name.trim_end();
        !name.is_empty() && name.len() <= 8 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    // Without a time behind it, it is a line that looks like this by chance.
    (is_name(facility) && is_name(level) && bracketed(rest).or_else(|| iso(rest)).is_some()).then_some(rest)
}

/// `[   12.345678] text` and `[Sat Nov 21 16:52:04 2026] text`.
fn bracketed(line: &str) -> Option<(Stamp<'_>, &str)> {
    let (inside, rest) = line.strip_prefix('[')?.split_once(']')?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    let inside = inside.trim_start();
    if inside.len() == 24 && inside.is_char_boundary(4) && inside.is_char_boundary(19) {
        let (time, year) = inside.split_at(19);
        let stamp = Stamp::Dated(time.get(4..)?, year.trim_start());
        return year.trim_start().parse::<i16>().ok().map(|_| (stamp, rest));
    }
    let (secs, fraction) = inside.split_once('.')?;
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number(secs) && is_number(fraction) { Some((Stamp::Uptime(inside.parse().ok()?), rest)) } else { None }
}

/// `2026-11-21T16:52:04,123456+00:00 text`: a comma, where syslog has a point and a host name behind it.
fn iso(line: &str) -> Option<(Stamp<'_>, &str)> {
    let (time, text) = line.split_once(' ')?;
    (time.get(19..20) == Some(",") && civil(time)).then_some((Stamp::Iso(time), text))
}

/// Behind the thread or CPU that wrote it (`CONFIG_PRINTK_CALLER`): `[ T123] text`.
fn without_caller(text: &str) -> &str {
    let caller = || {
        let (caller, rest) = text.strip_prefix('[')?.split_once("] ")?;
        let number = caller.trim_start().strip_prefix(['T', 'C'])?;
        (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(rest)
    };
    caller().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn every_format_of_dmesg() {
        for line in [
            "[   12.345678] EXT4-fs (sda1): x",
            "[   12.345678] [    T1] EXT4-fs (sda1): x",
            "<6>[   12.345678] EXT4-fs (sda1): x",
            "kern  :info  : [   12.345678] EXT4-fs (sda1): x",
            "[Sat Nov 21 16:52:04 2026] EXT4-fs (sda1): x",
            "2026-11-21T16:52:04,123456+00:00 EXT4-fs (sda1): x",
        ] {
            assert_eq!(parse(line).map(|line| line.text), Some("EXT4-fs (sda1): x"), "{line}");
        }
        assert_eq!(parse("[   12.5] x").unwrap().stamp, Stamp::Uptime(12.5));
        let stamp = parse("2026-11-21T16:52:04,5+02:00 x").unwrap().stamp;
        let utc = jiff::tz::TimeZone::UTC;
        assert_eq!(stamp.at(Timestamp::default(), &utc), Some(Timestamp::from_nanos(1_795_272_724_500_000_000)));
        let stamp = parse("[Sat Nov 21 16:52:04 2026] x").unwrap().stamp;
        assert_eq!(stamp.at(Timestamp::default(), &utc), Some(Timestamp::from_secs(1_795_279_924)));
    }

    #[test]
    fn anything_else_is_not_of_dmesg() {
        for line in
            ["", "[", "[x] y", "[1] y", "kern: y", "kern:info: y", "Nov 21 16:52:04 h kernel: x", "2026-11-21T16:52:04.1Z h x: y"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
        assert_eq!(without_time("[12.3] x"), "x");
        assert_eq!(without_time("[drm] x"), "[drm] x");
    }
}
