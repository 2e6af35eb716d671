//! `history`: what the database holds of one metric, as text, CSV or JSON. Reads only, whether the agent runs or not.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::ops::Range;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

use crate::cli::History;
use crate::config::Config;
use crate::exporters::sqlite::{self, Failure, Found, Reader, Rollup, begin, minute};
use crate::host;
use crate::model::Labels;
use crate::notifiers::escape;

/// Lines in which the minutes of a single series are told.
const LINES: usize = 24;
/// Columns of a chart, at most and at least.
const CHART: Range<usize> = 10..100;
/// Columns where the terminal does not say.
const WIDTH: usize = 80;
/// An eighth of a character to a whole one, from the bottom.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Names that are suggested for one that is unknown.
const SUGGESTIONS: usize = 3;

/// One series with its minutes.
struct Series {
    found: Found,
    minutes: Vec<(i64, Rollup)>,
}

/// Prints the history of a metric.
///
/// # Errors
/// The configuration is bad, there is no database, or it holds nothing of what was asked for.
pub fn run(options: &History) -> anyhow::Result<ExitCode> {
    let config = super::config_or_defaults(&options.config)?;
    let path = sqlite::path(&config);
    if !path.exists() {
        bail!("{}", absent(&config, options));
    }
    let until = minute(host::now()) + 1;
    let minutes = until - i64::try_from(options.since.as_secs().div_ceil(60)).unwrap_or(i64::MAX)..until;
    let series = Reader::with(&path, |reader| read(reader, options, &minutes)).map_err(|error: anyhow::Error| {
        let what = "cannot read the history; is this root, or the user of the agent?";
        if error.is::<Failure>() { error.context(what) } else { error }
    })?;
    let width = std::io::stdout().is_terminal().then(|| {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
        if size == 0 { WIDTH } else { size }
    });
    super::print(&if options.json {
        as_json(&options.metric, &series)
    } else if options.csv {
        as_csv(&series)
    } else {
        as_text(&series, &minutes, width)
    });
    Ok(ExitCode::SUCCESS)
}

fn absent(config: &Config, options: &History) -> String {
    let path = sqlite::path(config);
    let (path, file) = (path.display(), options.config.display());
    if config.storage.sqlite_enabled {
        format!("there is no history at {path} yet: the agent makes it when it runs with {file}, and writes every five minutes")
    } else {
        format!(
            "there is no history at {path}: [storage] sqlite_enabled is false in {file}; set it to true and start the agent again"
        )
    }
}

fn read(reader: &Reader<'_>, options: &History, minutes: &Range<i64>) -> anyhow::Result<Vec<Series>> {
    let metric = &options.metric;
    let all = reader.series(Some(metric), i64::MIN)?;
    if all.is_empty() {
        let names = reader.metrics()?;
        let near = near(metric, &names);
        let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
        bail!("nothing is known of a metric {metric}{hint}");
    }
    let wanted = |found: &Found| options.label.iter().all(|(name, value)| found.labels.get(name) == Some(value));
    let matching: Vec<Found> = all.iter().filter(|found| wanted(found)).cloned().collect();
    if matching.is_empty() {
        let some: Vec<String> =
            all.iter().take(SUGGESTIONS).map(|found| escape(&found.labels.to_string()).into_owned()).collect();
        bail!("{} series of {metric} are known, none with these labels; some that are: {}", all.len(), some.join(" "));
    }
    let mut series = Vec::new();
    for found in matching.into_iter().filter(|found| found.seen >= minutes.start) {
        let minutes = reader.minutes(&found, minutes)?;
        if !minutes.is_empty() {
            series.push(Series { found, minutes });
        }
    }
    if series.is_empty() {
        let latest = all.iter().map(|found| found.seen).max().unwrap_or(0);
        bail!(
            "{metric} has no values in this time; its last ones are of {}: ask for more with --since",
            local(latest, "%F %H:%M")
        );
    }
    Ok(series)
}

/// The names most like one that is unknown, the nearest first.
fn near<'a>(unknown: &str, names: &'a [String]) -> Vec<&'a str> {
    let likeness = |name: &str| {
        let contained = if name.contains(unknown) || unknown.contains(name) { 1.0 } else { 0.0 };
        strsim::jaro_winkler(unknown, name) + contained
    };
    let mut near: Vec<(f64, &str)> =
        names.iter().map(|name| (likeness(name), name.as_str())).filter(|(likeness, _)| *likeness > 0.8).collect();
    near.sort_by(|(a, one), (b, other)| b.total_cmp(a).then(one.cmp(other)));
    near.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

fn as_json(metric: &str, series: &[Series]) -> String {
    let minute = |(minute, rollup): &(i64, Rollup)| {
        let Rollup { min, mean, max, last, count } = rollup;
        json!({"time": rfc3339(*minute), "min": min, "mean": mean, "max": max, "last": last, "count": count})
    };
    let labels = |labels: &Labels| labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let series: Vec<Value> = series
        .iter()
        .map(|series| {
            let minutes: Vec<Value> = series.minutes.iter().map(minute).collect();
            json!({"labels": Value::Object(labels(&series.found.labels)), "minutes": minutes})
        })
        .collect();
    format!("{:#}\n", json!({"metric": metric, "series": series}))
}

/// Comma-separated values (RFC 4180), a line for each minute of each series.
fn as_csv(series: &[Series]) -> String {
    let mut page = "time,metric,labels,min,mean,max,last,count\n".to_owned();
    for Series { found, minutes } in series {
        let labels = escape(&found.labels.to_string()).replace('"', "\"\"");
        for (minute, Rollup { min, mean, max, last, count }) in minutes {
            let time = rfc3339(*minute);
            let _ = writeln!(page, "{time},{},\"{labels}\",{min},{mean},{max},{last},{count}", found.metric);
        }
    }
    page
}

/// A table for one series, a line for each of several; charts where there is a terminal.
fn as_text(series: &[Series], minutes: &Range<i64>, width: Option<usize>) -> String {
    match series {
        [one] => table(one, minutes, width),
        several => several.iter().map(|series| line(series, minutes, width)).collect(),
    }
}

/// One series, in a few lines of equal time.
fn table(series: &Series, minutes: &Range<i64>, width: Option<usize>) -> String {
    let mut page = format!("{}\n{:<12}{:>16}{:>16}{:>16}\n", name(series), "", "min", "mean", "max");
    let first = series.minutes.first().map_or(minutes.start, |(minute, _)| *minute);
    let buckets = buckets(&series.minutes, &(first..minutes.end), LINES);
    let most = buckets.iter().flatten().map(|(_, bucket)| bucket.max).fold(0.0, f64::max);
    let room = width.map(|width| width.saturating_sub(12 + 3 * 16 + 3).clamp(CHART.start, CHART.end));
    for (begin, bucket) in buckets.iter().flatten() {
        let Rollup { min, mean, max, .. } = bucket;
        let bar = room.map_or(String::new(), |room| format!("  {}", "█".repeat(part(*mean, most, room))));
        let _ = writeln!(
            page,
            "{:<12}{:>16}{:>16}{:>16}{}",
            local(*begin, "%m-%d %H:%M"),
            number(*min),
            number(*mean),
            number(*max),
            bar.trim_end()
        );
    }
    page
}

/// One series in two lines: its name, its figures with a chart of its means.
fn line(series: &Series, minutes: &Range<i64>, width: Option<usize>) -> String {
    let Some(total) = together(series.minutes.iter().map(|(_, rollup)| *rollup)) else { return String::new() };
    let figures = format!(
        "  min {}  mean {}  max {}  last {}",
        number(total.min),
        number(total.mean),
        number(total.max),
        number(total.last)
    );
    let chart = width.map_or(String::new(), |width| {
        let buckets = buckets(&series.minutes, minutes, (width.saturating_sub(4)).clamp(CHART.start, CHART.end));
        let height = |rollup: &Rollup| {
            let step = part(rollup.mean - total.min, total.max - total.min, HEIGHTS.len() - 1);
            HEIGHTS.get(step).copied().unwrap_or(' ')
        };
        let chart: String = buckets.iter().map(|bucket| bucket.as_ref().map_or(' ', |(_, rollup)| height(rollup))).collect();
        format!("\n  {}", chart.trim_end())
    });
    format!("{}{chart}\n{figures}\n", name(series))
}

fn name(series: &Series) -> String {
    escape(&format!("{}{}", series.found.metric, series.found.labels)).into_owned()
}

/// The minutes of a range in `count` parts, or one a minute where those are fewer: the begin of each, and what is in it.
fn buckets(rows: &[(i64, Rollup)], minutes: &Range<i64>, count: usize) -> Vec<Option<(i64, Rollup)>> {
    let span = usize::try_from(minutes.end.saturating_sub(minutes.start)).unwrap_or(0).max(1);
    let step = i64::try_from(span.div_ceil(count.max(1))).unwrap_or(i64::MAX);
    let begins = (0..).map(|index| minutes.start + index * step).take_while(|begin| *begin < minutes.end);
    let bucket = |begin: i64| {
        let within = rows.iter().filter(|(minute, _)| (begin..begin + step).contains(minute)).map(|(_, rollup)| *rollup);
        together(within).map(|rollup| (begin, rollup))
    };
    begins.map(bucket).collect()
}

fn together(rollups: impl Iterator<Item = Rollup>) -> Option<Rollup> {
    rollups.reduce(|all, next| {
        let count = all.count.saturating_add(next.count);
        Rollup {
            min: all.min.min(next.min),
            mean: all.mean + (next.mean - all.mean) * f64::from(next.count) / f64::from(count.max(1)),
            max: all.max.max(next.max),
            last: next.last,
            count,
        }
    })
}

/// `value` of `whole` in steps of which there are `steps`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a number of columns")]
fn part(value: f64, whole: f64, steps: usize) -> usize {
    let part = value / whole * steps as f64;
    if part.is_finite() { part.round().clamp(0.0, steps as f64) as usize } else { 0 }
}

/// As many digits as a person reads.
fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn zoned(minute: i64) -> jiff::Zoned {
    let timestamp = jiff::Timestamp::from_second(begin(minute).as_nanos() / 1_000_000_000).unwrap_or_default();
    timestamp.to_zoned(jiff::tz::TimeZone::system())
}

fn local(minute: i64, format: &str) -> String {
    zoned(minute).strftime(format).to_string()
}

fn rfc3339(minute: i64) -> String {
    local(minute, "%FT%T%:z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollup(value: f64) -> Rollup {
        Rollup { min: value - 1.0, mean: value, max: value + 1.0, last: value, count: 6 }
    }

    #[test]
    fn minutes_become_at_most_as_many_parts_as_there_is_room() {
        let rows: Vec<(i64, Rollup)> = (0..100).map(|minute| (minute, rollup(minute as f64))).collect();
        let parts = buckets(&rows, &(0..100), 24);
        assert_eq!(parts.len(), 20);
        assert_eq!(parts[1].unwrap(), (5, Rollup { min: 4.0, mean: 7.0, max: 10.0, last: 9.0, count: 30 }));
        // A gap stays a gap.
        assert!(buckets(&rows[..10], &(0..100), 10).iter().skip(1).all(Option::is_none));
        assert_eq!(buckets(&rows, &(0..3), 24).len(), 3);
    }

    #[test]
    fn near_names_are_suggested() {
        let names = ["cpu_usage_percent", "memory_usage_percent", "disk_usage_percent", "network_receive_bytes_per_second"];
        let names: Vec<String> = names.map(String::from).to_vec();
        assert_eq!(near("cpu_usage", &names)[0], "cpu_usage_percent");
        assert_eq!(near("memory_usgae_percent", &names)[0], "memory_usage_percent");
        assert!(near("zzz", &names).is_empty());
    }

    #[test]
    fn charts_stay_within_their_room() {
        assert_eq!([part(0.0, 0.0, 7), part(5.0, 10.0, 8), part(20.0, 10.0, 8), part(-1.0, 10.0, 8)], [0, 4, 8, 0]);
        assert_eq!([number(3.0), number(0.12345), number(12.345), number(12345.6)], ["3", "0.1235", "12.35", "12346"]);
    }
}
