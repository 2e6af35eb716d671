//! When a silence is active: once, or every week between two times of day.
//!
//! A window of the week is what a clock on the wall shows there. Where that clock skips an hour, what would begin in that hour begins behind
//! it and lasts as long as ever, and what would end in it ends an hour later; where it shows an hour twice, what begins then begins
//! with the first and what ends then ends with the second. So no window is lost, and each is one piece.

use std::fmt;
use std::time::Duration;

use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

/// A day, in minutes.
const DAY: u16 = 24 * 60;
/// Most windows that follow each other without a gap and are taken for one: a week's and one more.
const MAX_PIECES: usize = 8;

/// When a silence is active.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Window(Kind);

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Once { starts: Timestamp, ends: Timestamp },
    Weekly { days: Vec<Weekday>, from: u16, to: u16, zone: Zone },
}

/// A time zone, and its name where it was named.
#[derive(Clone, Debug, PartialEq)]
struct Zone {
    name: Option<String>,
    rules: TimeZone,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are the days of the week")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    /// All days with their names in configuration files.
    pub const NAMES: [(&str, Self); 7] = [
        ("mon", Self::Mon),
        ("tue", Self::Tue),
        ("wed", Self::Wed),
        ("thu", Self::Thu),
        ("fri", Self::Fri),
        ("sat", Self::Sat),
        ("sun", Self::Sun),
    ];

    fn of(date: Date) -> Self {
        match date.weekday() {
            jiff::civil::Weekday::Monday => Self::Mon,
            jiff::civil::Weekday::Tuesday => Self::Tue,
            jiff::civil::Weekday::Wednesday => Self::Wed,
            jiff::civil::Weekday::Thursday => Self::Thu,
            jiff::civil::Weekday::Friday => Self::Fri,
            jiff::civil::Weekday::Saturday => Self::Sat,
            jiff::civil::Weekday::Sunday => Self::Sun,
        }
    }
}

impl Window {
    /// From `starts` on, until before `ends`.
    ///
    /// # Errors
    /// How a sentence goes on that begins with the end.
    pub fn once(starts: Timestamp, ends: Timestamp) -> Result<Self, String> {
        if ends <= starts {
            return Err("is not after the start".into());
        }
        Ok(Self(Kind::Once { starts, ends }))
    }

    /// On these days, or on all where there are none, from the minute `from` of the day until before the minute `to`; of the day after where
    /// `to` is the smaller. Without the name of a time zone the host's counts.
    ///
    /// # Errors
    /// How a sentence goes on that begins with the end, or with the time zone.
    pub fn weekly(days: Vec<Weekday>, from: u16, to: u16, time_zone: Option<&str>) -> Result<Self, String> {
        if from == to {
            return Err("is the time of the beginning, too; the whole of a day is from \"00:00\" to \"24:00\"".into());
        }
        if from >= DAY || to > DAY {
            return Err("is no time of day".into());
        }
        let rules = time_zone.map_or_else(|| Ok(TimeZone::system()), zone)?;
        Ok(Self(Kind::Weekly { days, from, to, zone: Zone { name: time_zone.map(str::to_owned), rules } }))
    }

    /// Begin and end of the activity at this time, if it is active.
    pub(super) fn span(&self, at: Timestamp) -> Option<(Timestamp, Timestamp)> {
        match &self.0 {
            Kind::Once { starts, ends } => Some((*starts, *ends)).filter(|(starts, ends)| (starts..ends).contains(&&at)),
            Kind::Weekly { days, from, to, zone } => {
                let time = jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).ok()?;
                let today = zone.rules.to_datetime(time).date();
                let spans = [today.yesterday().ok()?, today].into_iter().filter_map(|date| {
                    let is_meant = days.is_empty() || days.contains(&Weekday::of(date));
                    is_meant.then(|| span_of(date, *from, *to, &zone.rules)).flatten()
                });
                // Where the clock shows an hour twice, one may still last when the next has begun.
                spans.filter(|(begin, end)| (begin..end).contains(&&at)).max_by_key(|(_, end)| *end)
            }
        }
    }

    pub(super) fn ends_after(&self, at: Timestamp) -> Option<Timestamp> {
        let mut end = self.span(at)?.1;
        for _ in 0..MAX_PIECES {
            let Some((_, later)) = self.span(end) else { break };
            end = later;
        }
        Some(end)
    }

    pub(super) fn is_over(&self, at: Timestamp) -> bool {
        matches!(self.0, Kind::Once { ends, .. } if ends <= at)
    }
}

/// `2026-03-01T22:00:00Z to …`, or `sat, sun 22:00 to 06:00 Europe/Berlin`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Once { starts, ends } => write!(f, "{} to {}", instant(*starts), instant(*ends)),
            Kind::Weekly { days, from, to, zone } => {
                let named = |day: &Weekday| Weekday::NAMES.iter().find(|(_, named)| named == day).map(|(name, _)| *name);
                let days: Vec<&str> = days.iter().filter_map(named).collect();
                let days = if days.is_empty() { "daily".to_owned() } else { days.join(", ") };
                write!(f, "{days} {} to {}", time_of_day(*from), time_of_day(*to))?;
                zone.name.as_ref().map_or(Ok(()), |name| write!(f, " {name}"))
            }
        }
    }
}

/// The minute of the day that `HH:MM` is; 24:00 is the end of the day.
///
/// # Errors
/// How a sentence goes on that begins with the string.
pub(crate) fn minute_of_day(text: &str) -> Result<u16, String> {
    let digits =
        |text: &str| (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok());
    let parts = text.split_once(':').and_then(|(hours, minutes)| Some((digits(hours)??, digits(minutes)??)));
    match parts {
        Some((hours, minutes)) if minutes < 60 && hours * 60 + minutes <= DAY => Ok(hours * 60 + minutes),
        _ => Err("is no time of day".into()),
    }
}

/// The time of RFC 3339.
///
/// # Errors
/// How a sentence goes on that begins with the string.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let time = text.parse::<jiff::Timestamp>().ok().and_then(|time| i64::try_from(time.as_nanosecond()).ok());
    time.map(Timestamp::from_nanos).ok_or_else(|| "is no time with an offset from UTC".into())
}

/// The rules of a time zone by its name: the host's, else those that came with the agent.
pub(crate) fn zone(name: &str) -> Result<TimeZone, String> {
    let zone = jiff::tz::db().get(name).or_else(|_| TimeZoneDatabase::bundled().get(name));
    zone.map_err(|_| "is no time zone of the IANA database".into())
}

/// Begin and end of the window that belongs to this day.
fn span_of(date: Date, from: u16, to: u16, rules: &TimeZone) -> Option<(Timestamp, Timestamp)> {
    let begin = rules.to_ambiguous_timestamp(date.at(0, 0, 0, 0).checked_add(i64::from(from).minutes()).ok()?);
    let last = if to < from { date.tomorrow().ok()? } else { date };
    let end = rules.to_ambiguous_timestamp(last.at(0, 0, 0, 0).checked_add(i64::from(to).minutes()).ok()?);
    let nanos = |time: jiff::Timestamp| i64::try_from(time.as_nanosecond()).ok().map(Timestamp::from_nanos);
    if let AmbiguousOffset::Gap { .. } = begin.offset() {
        let begin = nanos(rules.following(begin.earlier().ok()?).next()?.timestamp())?;
        let minutes = if to < from { to + DAY - from } else { to - from };
        return Some((begin, begin.plus(Duration::from_secs(u64::from(minutes) * 60))));
    }
    Some((nanos(begin.earlier().ok()?)?, nanos(end.later().ok()?)?))
}

fn instant(at: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default().to_string()
}

fn time_of_day(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// As it is written to disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Once {
        starts: String,
        ends: String,
    },
    Weekly {
        #[serde(default)]
        days: Vec<Weekday>,
        from: String,
        to: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time_zone: Option<String>,
    },
}

impl From<Window> for Stored {
    fn from(window: Window) -> Self {
        match window.0 {
            Kind::Once { starts, ends } => Self::Once { starts: instant(starts), ends: instant(ends) },
            Kind::Weekly { days, from, to, zone } => {
                Self::Weekly { days, from: time_of_day(from), to: time_of_day(to), time_zone: zone.name }
            }
        }
    }
}

impl TryFrom<Stored> for Window {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        match stored {
            Stored::Once { starts, ends } => Self::once(time(&starts)?, time(&ends)?),
            Stored::Weekly { days, from, to, time_zone } => {
                Self::weekly(days, minute_of_day(&from)?, minute_of_day(&to)?, time_zone.as_deref())
            }
        }
    }
}

#[cfg(test)]
mod tests;
