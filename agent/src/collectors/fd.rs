//! File descriptors of the whole system, `/proc/sys/fs/file-nr`.
//!
//! Those of single processes, and who has none left, are looked at by `process`, which looks at each process in any case.

use super::interval::percent;
use super::text::fields;
use super::{Batch, Collector, Expected, Row, keys, metrics};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{KernelEvent, Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "fd",
    summary: "file descriptors of the system",
    source: "/proc/sys/fs/file-nr",
    interval: |config| config.collector.fd_interval,
    build: |_, host| Box::new(Fd::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge USED: Count = "fd_used", "Open file handles (/proc/sys/fs/file-nr).";
    gauge MAX: Count = "fd_max", "Most file handles that may be open (/proc/sys/fs/file-nr, fs.file-max).";
    gauge USAGE: Percent = "fd_usage_percent", "Open file handles by the most that may be open.";
}

struct Fd {
    file_nr: ProcFile,
    series: [SeriesKey; 3],
}

impl Fd {
    fn new(host: &Host) -> Self {
        Self { file_nr: ProcFile::new(host.procfs("sys/fs/file-nr")), series: keys([&USED, &MAX, &USAGE], &Labels::new()) }
    }
}

/// The event of a system that is at its limit.
fn system_exhausted(used: u64, max: u64) -> KernelEvent {
    let evidence = [("source", "/proc/sys/fs/file-nr".into()), ("limit", max.into()), ("scope", "system".into())];
    KernelEvent {
        metric: "kernel_fd_exhausted",
        labels: Labels::new(),
        value: used as f64,
        threshold: Some(max as f64),
        count: 1,
        message: format!("the system has {used} file handles open of {max} that it may have: nobody gets another"),
        source: "poll",
        evidence: evidence.into_iter().map(|(name, fact): (&str, serde_json::Value)| (name.to_owned(), fact)).collect(),
    }
}

impl Collector for Fd {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { file_nr, series: [used_series, max_series, usage_series] } = self;
        batch.lines(file_nr.read()?, |batch, line| {
            let (used, max) = parse_file_nr(line)?;
            batch.push_count(used_series, used);
            batch.push_count(max_series, max);
            if let Some(usage) = percent(used as f64, max as f64) {
                batch.push(usage_series, usage);
            }
            if used >= max {
                batch.events.push(system_exhausted(used, max));
            }
            Ok(())
        });
        Ok(())
    }
}

/// Handles in use and their maximum. What is allocated and free, which is none since 2.6, is not in use.
fn parse_file_nr(line: &[u8]) -> Result<(u64, u64), Expected> {
    let [allocated, free, max] = fields(line).numbers().ok_or("three numbers")?;
    Ok((allocated.checked_sub(free).ok_or("no more free than allocated")?, max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    #[test]
    fn file_nr_is_read() {
        assert_eq!(parse_file_nr(b"1568\t0\t97112"), Ok((1568, 97_112)));
        assert_eq!(parse_file_nr(b"668\t0\t9223372036854775807"), Ok((668, 9_223_372_036_854_775_807)));
        assert_eq!(parse_file_nr(b"668\t0"), Err("three numbers"));
        assert_eq!(parse_file_nr(b"1\t2\t3"), Err("no more free than allocated"));
    }

    #[test]
    fn no_input_panics() {
        mangle(b"1568\t0\t97112", |line| {
            let _ = parse_file_nr(line);
        });
    }
}
