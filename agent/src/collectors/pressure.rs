//! Pressure stall information: how much work waited for processors, I/O or memory (Documentation/accounting/psi.rst).
//!
//! The one measure that says whether a busy resource hurts anybody. Kernels before 4.20 have none, and distributions ship some
//! with it switched off (`psi=0`); then there is nothing to say, which is no error.

use std::io::ErrorKind;

use super::text::{decimal, fields, number};
use super::{Batch, Collector, Expected, Row, metrics};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Labels, Metric, SeriesKey};

pub const ROW: Row = Row {
    name: "pressure",
    summary: "share of time in which work waited for processors, I/O or memory",
    source: "/proc/pressure/{cpu,io,memory,irq}",
    interval: |config| config.agent.collect_interval,
    build: |_, host| Box::new(Pressure::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge STALLED: Percent = "pressure_stalled_percent",
        "Share of time in which some tasks, or all that were not idle (full), waited for the resource, averaged over the window (Documentation/accounting/psi.rst).";
    counter STALLED_TIME: Seconds = "pressure_stalled_seconds_total",
        "Time in which some tasks, or all that were not idle (full), waited for the resource, since boot (Documentation/accounting/psi.rst).";
}

/// Files of `/proc/pressure`. `irq` came with 6.1.
const RESOURCES: [&str; 4] = ["cpu", "io", "memory", "irq"];
/// Its lines. `full` of `cpu` came with 5.13 and says nothing there; `irq` has no other.
const SHARES: [&[u8]; 2] = [b"some", b"full"];
/// Columns of a line, and the windows they stand for.
const WINDOWS: [(&[u8], &str); 3] = [(b"avg10", "10s"), (b"avg60", "60s"), (b"avg300", "300s")];

struct Pressure {
    resources: [Resource; 4],
}

struct Resource {
    file: ProcFile,
    /// By share: of the windows, and of the total.
    series: [([SeriesKey; 3], SeriesKey); 2],
}

impl Pressure {
    fn new(host: &Host) -> Self {
        Self { resources: RESOURCES.map(|name| Resource::new(host, name)) }
    }
}

impl Resource {
    fn new(host: &Host, name: &'static str) -> Self {
        let series = ["some", "full"].map(|share| {
            let series = |metric: &'static Metric, labels: Labels| {
                SeriesKey::new(metric, labels.with("resource", name).with("share", share))
            };
            let windows = WINDOWS.map(|(_, window)| series(&STALLED, Labels::new().with("window", window)));
            (windows, series(&STALLED_TIME, Labels::new()))
        });
        Self { file: ProcFile::new(host.procfs("pressure").join(name)), series }
    }

    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { file, series } = self;
        let text = match file.read() {
            Ok(text) => text,
            // Where it is switched off the files are not there, or cannot be read.
            Err(error) if matches!(error.cause.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => return Ok(()),
            Err(error) => return Err(error),
        };
        batch.lines(text, |batch, line| {
            let Line { share, averages, total_micros } = parse_line(line)?;
            if let Some((_, (windows, total))) = SHARES.iter().zip(series.iter()).find(|(known, _)| **known == share) {
                for (series, average) in windows.iter().zip(averages) {
                    batch.push(series, average);
                }
                batch.push(total, total_micros as f64 / 1e6);
            }
            Ok(())
        });
        Ok(())
    }
}

impl Collector for Pressure {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let results = self.resources.each_mut().map(|resource| resource.collect(batch));
        results.into_iter().collect()
    }
}

#[derive(Debug, PartialEq)]
struct Line<'a> {
    share: &'a [u8],
    averages: [f64; 3],
    total_micros: u64,
}

/// `some avg10=0.00 avg60=0.12 avg300=0.05 total=123456`
fn parse_line(line: &[u8]) -> Result<Line<'_>, Expected> {
    let mut rest = fields(line);
    let share = rest.next().ok_or("some or full")?;
    let mut averages = [0.0; 3];
    for (slot, (name, _)) in averages.iter_mut().zip(WINDOWS) {
        let value = rest.next().and_then(|field| value_of(field, name)).and_then(decimal);
        *slot = value.filter(|value| (0.0..=100.0).contains(value)).ok_or("avg10, avg60 and avg300, each in percent")?;
    }
    let total = rest.next().and_then(|field| value_of(field, b"total")).and_then(number);
    Ok(Line { share, averages, total_micros: total.ok_or("total with a number")? })
}

fn value_of<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    field.strip_prefix(name)?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    const LINE: &[u8] = b"some avg10=1.50 avg60=0.12 avg300=0.05 total=123456789";

    #[test]
    fn a_line_is_read() {
        let line = Line { share: b"some", averages: [1.5, 0.12, 0.05], total_micros: 123_456_789 };
        assert_eq!(parse_line(LINE), Ok(line));
    }

    #[test]
    fn where_it_is_switched_off_there_is_none() {
        // With `psi=0`, which some distributions boot with, the files are there and refuse to be opened (kernel/sched/psi.c).
        assert_eq!(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP).kind(), ErrorKind::Unsupported);
        let procfs = tempfile::tempdir().unwrap();
        let host = Host::new(crate::config::HostRoots { procfs: procfs.path().to_owned(), ..Default::default() });
        let mut batch = Batch::new(std::time::Instant::now());
        Pressure::new(&host).collect(&mut batch).unwrap();
        assert!(batch.samples.is_empty() && batch.skipped == 0);
    }

    #[test]
    fn a_bad_line_says_what_was_expected() {
        assert_eq!(parse_line(b""), Err("some or full"));
        let averages = Err("avg10, avg60 and avg300, each in percent");
        assert_eq!(parse_line(b"some avg10=0.00 avg60=0.00 total=1"), averages);
        assert_eq!(parse_line(b"some avg10=0.00 avg60=-1.00 avg300=0.00 total=1"), averages);
        assert_eq!(parse_line(b"some avg10=0.00 avg60=101.00 avg300=0.00 total=1"), averages);
        assert_eq!(parse_line(b"full avg10=0.00 avg60=0.00 avg300=0.00 total=x"), Err("total with a number"));
    }

    #[test]
    fn no_input_panics() {
        mangle(LINE, |line| {
            let _ = parse_line(line);
        });
    }
}
