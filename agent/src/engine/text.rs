//! How numbers and durations are written in the sentences of alerts.

use std::time::Duration;

use crate::model::{Timestamp, Unit, bytes};

/// The two largest units that are not zero: `5 min 30 s`, `2 h`, `3 d 4 h`; `0 s` below a second.
pub(super) fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (large, small) = match secs {
        0..60 => ((secs, "s"), (0, "")),
        60..3600 => ((secs / 60, "min"), (secs % 60, "s")),
        3600..86_400 => ((secs / 3600, "h"), (secs % 3600 / 60, "min")),
        _ => ((secs / 86_400, "d"), (secs % 86_400 / 3600, "h")),
    };
    match small {
        (0, _) => format!("{} {}", large.0, large.1),
        small => format!("{} {} {} {}", large.0, large.1, small.0, small.1),
    }
}

/// A measured value, rounded to what a human reads: `95.2%`.
pub(super) fn value(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Percent => format!("{value:.1}%"),
        Unit::Ratio => format!("{value:.3}"),
        Unit::Bytes => bytes(value),
        Unit::Count | Unit::Boolean if value.fract() == 0.0 => format!("{value}"),
        Unit::Count | Unit::Boolean => format!("{value:.2}"),
        Unit::Seconds => format!("{value:.1} s"),
        Unit::Milliseconds => format!("{value:.1} ms"),
        Unit::PerSecond => format!("{value:.1}/s"),
        Unit::Celsius => format!("{value:.1} °C"),
    }
}

/// A limit as it stands in the configuration: `90%`.
pub(super) fn limit(limit: f64, unit: Unit) -> String {
    match unit {
        Unit::Percent => format!("{limit}%"),
        Unit::Bytes => bytes(limit),
        Unit::Ratio | Unit::Count | Unit::Boolean => format!("{limit}"),
        Unit::Seconds => format!("{limit} s"),
        Unit::Milliseconds => format!("{limit} ms"),
        Unit::PerSecond => format!("{limit}/s"),
        Unit::Celsius => format!("{limit} °C"),
    }
}

/// A number of bytes in the largest unit of which there is one: `3.2 GiB`.
pub(super) fn size(bytes: f64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = (bytes, "B");
    for unit in units {
        if size.0.abs() < 1024.0 {
            break;
        }
        size = (size.0 / 1024.0, unit);
    }
    let digits = usize::from(size.1 != "B");
    format!("{:.digits$} {}", size.0, size.1)
}

/// `1 event`, `2 events`.
pub(super) fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// RFC 3339 in UTC, to the second: what is told of the past is known no more exactly.
pub(super) fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_nanos().div_euclid(1_000_000_000)).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_speech() {
        for (secs, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (330, "5 min 30 s"),
            (7200, "2 h"),
            (7265, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_secs(secs)), expected);
        }
    }

    #[test]
    fn values_carry_their_unit() {
        assert_eq!(value(95.16, Unit::Percent), "95.2%");
        assert_eq!(limit(90.0, Unit::Percent), "90%");
        assert_eq!(value(0.0204, Unit::Ratio), "0.020");
        assert_eq!((value(3.126, Unit::Count), value(7.0, Unit::Count)), ("3.13".into(), "7".into()));
        assert_eq!(limit(0.01, Unit::Ratio), "0.01");
        assert_eq!((size(512.0), size(1536.0), size(3.2e9)), ("512 B".into(), "1.5 KiB".into(), "3.0 GiB".into()));
        assert_eq!(counted(1, "event"), "1 event");
        assert_eq!(counted(2, "event"), "2 events");
    }
}
