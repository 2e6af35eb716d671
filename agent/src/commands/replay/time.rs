//! Simulated time: what a timestamp says, and when the engine is told that time passed.

use std::time::Duration;

use crate::engine::Engine;
use crate::model::{Observation, Timestamp};

/// A tick a second, as in the agent, where something waits for silence.
const FINE: Duration = Duration::from_secs(1);
/// Where nothing does. Longer ones would look like a clock that jumped.
const COARSE: Duration = Duration::from_secs(30);
/// How long after an event, a log line or a counter of the kernel another source may have its say.
const WAITS: Duration = Duration::from_secs(300);
/// How long after the last observation an open incident may wait for silence to the second.
const ENDS: Duration = Duration::from_secs(1200);
/// After that long without an observation, time jumps: whatever waited is over.
const OVER: Duration = Duration::from_secs(86_400);
/// What is heard at the end of a recording may wait that long for other sources.
const LAST: Duration = Duration::from_secs(5);

const SECOND: i64 = 1_000_000_000;

/// When the engine is told that time passed: at whole seconds, always the same for the same observations.
#[derive(Default)]
pub(super) struct Ticks {
    /// The last tick, or the first observation.
    now: Option<Timestamp>,
    seen: Timestamp,
    /// Until when something may wait.
    fine_until: Timestamp,
}

impl Ticks {
    /// The next tick that is due before an observation of `at`.
    pub(super) fn next(&mut self, at: Timestamp, engine: &Engine) -> Option<Timestamp> {
        // The first observation, and a clock that was set back, begin anew.
        let now = self.now.filter(|now| *now <= at)?;
        if now.since(self.seen) > OVER && at.since(now) > COARSE {
            let before = whole(at).minus(FINE);
            self.now = Some(before);
            return Some(before);
        }
        let waiting = engine.open_incidents().next().is_some() && now.since(self.seen) < ENDS;
        let step = if waiting || now < self.fine_until { FINE } else { COARSE };
        let next = whole(now).plus(step);
        if next > at || next <= now {
            return None;
        }
        self.now = Some(next);
        Some(next)
    }

    /// The ticks after the last observation.
    pub(super) fn after_the_end(&mut self, _: &Engine) -> Option<Timestamp> {
        let now = self.now?;
        let next = whole(now.max(self.seen)).plus(FINE);
        if next > self.seen.plus(LAST) || next <= now {
            return None;
        }
        self.now = Some(next);
        Some(next)
    }

    /// Takes note of an observation, before the engine is given it.
    pub(super) fn seen(&mut self, at: Timestamp, observation: &Observation) {
        if self.now.is_none_or(|now| at < now) {
            self.now = Some(at);
            self.fine_until = self.fine_until.min(at.plus(WAITS));
        }
        self.seen = at;
        let waits = match observation {
            Observation::Samples(samples) => {
                samples.values.iter().any(|sample| sample.series.metric().name.starts_with("kernel_"))
            }
            _ => true,
        };
        if waits {
            self.fine_until = at.plus(WAITS);
        }
    }
}

/// The whole second that a time is in.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_nanos(at.as_nanos().saturating_sub(at.as_nanos().rem_euclid(SECOND)))
}

/// RFC 3339; `YYYY-MM-DD HH:MM:SS`, taken as UTC; seconds, milliseconds, microseconds or nanoseconds since the epoch, by size.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    if let Ok(number) = text.parse::<i64>() {
        let unit = match number.unsigned_abs() {
            0..100_000_000_000 => SECOND,
            100_000_000_000..100_000_000_000_000 => 1_000_000,
            100_000_000_000_000..100_000_000_000_000_000 => 1000,
            _ => 1,
        };
        return Some(Timestamp::from_nanos(number.saturating_mul(unit)));
    }
    if let Ok(number) = text.parse::<f64>() {
        let unit = if number.abs() < 1e11 { SECOND } else { 1_000_000 };
        if number.abs() * unit as f64 >= 9e18 || number.is_nan() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "within the range of the type, as was seen before")]
        let (whole, rest) = (number.trunc() as i64, (number.fract() * unit as f64).round() as i64);
        return Some(Timestamp::from_nanos(whole * unit + rest));
    }
    let zoned = || text.parse::<jiff::Timestamp>().ok();
    let civil = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let timestamp = zoned().or_else(|| civil().map(|zoned| zoned.timestamp()))?;
    i64::try_from(timestamp.as_nanosecond()).ok().map(Timestamp::from_nanos)
}

/// RFC 3339 in UTC.
pub(super) fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        let expected = Some(Timestamp::from_secs(1_771_777_800));
        for text in [
            "2026-02-22T16:30:00Z",
            "2026-02-22T18:30:00+02:00",
            "2026-02-22 16:30:00",
            "2026-02-22T16:30:00",
            "2026-02-22 16:30:00.000",
            "2026-02-22 16:30",
            "1771777800",
            "1771777800000",
            "1771777800.0",
            "1771777800000000",
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse("1771777800.25"), Some(Timestamp::from_nanos(1_771_777_800_250_000_000)));
        assert_eq!(parse("2026-02-22"), Some(Timestamp::from_secs(1_771_718_400)));
        for text in ["", "x", "NaN", "inf", "1e300", "2026-13-01 00:00:00", "12:00"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(rfc3339(Timestamp::from_secs(1_771_777_800)), "2026-02-22T16:30:00Z");
    }
}
