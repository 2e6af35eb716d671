//! What became of packets between the driver and the protocols: `/proc/net/softnet_stat`, written by `softnet_seq_show`
//! (net/core/net-procfs.c).
//!
//! One line a processor, which are added up: thousands of series would say no more. The kernel's counters have 32 bits and a
//! processor that goes offline takes its line along, so what is given is the sum of all growth, which does neither.

use super::entities::Entities;
use super::text::{fields, hexadecimal};
use super::{Batch, Collector, Expected, Row, keys, metrics};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "network_softnet",
    summary: "packets taken in by softirqs, and dropped there",
    source: "/proc/1/net/softnet_stat",
    interval: |config| config.collector.network_interval,
    build: |_, host| Box::new(Softnet::new(host)),
    metrics: METRICS,
};

metrics! {
    counter PROCESSED: Count = "network_softnet_processed_total",
        "Packets that softirqs took in, on all processors (/proc/net/softnet_stat, net/core/net-procfs.c).";
    counter DROPS: Count = "network_softnet_drops_total",
        "Packets dropped because a processor's backlog was full, net.core.netdev_max_backlog (/proc/net/softnet_stat, Documentation/admin-guide/sysctl/net.rst).";
    counter SQUEEZED: Count = "network_softnet_squeezed_total",
        "How often a softirq had to stop with packets left, net.core.netdev_budget (/proc/net/softnet_stat, Documentation/admin-guide/sysctl/net.rst).";
}

struct Softnet {
    stat: ProcFile,
    /// What each processor's counters were.
    processors: Entities<u32, [u32; 3]>,
    /// Everything that they grew by, and what they were at first.
    totals: Option<[u64; 3]>,
    /// Lines of the last run.
    lines: usize,
    series: [SeriesKey; 3],
}

impl Softnet {
    fn new(host: &Host) -> Self {
        Self {
            stat: ProcFile::new(host.procfs_of_init("net/softnet_stat")),
            processors: Entities::default(),
            totals: None,
            lines: 0,
            series: keys([&PROCESSED, &DROPS, &SQUEEZED], &Labels::new()),
        }
    }
}

impl Collector for Softnet {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Self { stat, processors, totals, lines, series } = self;
        let Some(text) = stat.read_if_exists()? else { return Ok(()) };
        let first_run = totals.is_none();
        let sums = totals.get_or_insert_default();
        let (mut place, mut read) = (0, 0_u32);
        let count = text.iter().filter(|byte| **byte == b'\n').count();
        let moved = std::mem::replace(lines, count) != count;
        batch.lines(text, |_, line| {
            place += 1;
            let (number, counters) = parse_line(line)?;
            read += 1;
            // A processor that appears later begins with what it has: its earlier packets were counted by then, or never.
            let make = || if first_run { [0; 3] } else { counters };
            processors.see(&number.unwrap_or(place - 1), make, |last| {
                // Lines without a number are known by their place, which says nothing after one has come or gone.
                if number.is_none() && moved && !first_run {
                    *last = counters;
                }
                for ((sum, value), last) in sums.iter_mut().zip(counters).zip(last.iter_mut()) {
                    *sum = sum.saturating_add(value.wrapping_sub(*last).into());
                    *last = value;
                }
            });
            Ok(())
        });
        processors.end_run();
        if read > 0 {
            for (series, sum) in series.iter().zip(*sums) {
                batch.push_count(series, sum);
            }
        }
        Ok(())
    }
}

/// A line: the number of the processor, which is its thirteenth column and younger than 5.10; packets, drops, squeezes.
fn parse_line(line: &[u8]) -> Result<(Option<u32>, [u32; 3]), Expected> {
    let mut rest = fields(line);
    let mut next = || rest.next().and_then(hexadecimal).ok_or("three hexadecimal numbers of 32 bits");
    let counters = [next()?, next()?, next()?];
    let number = rest.nth(9).map(|field| hexadecimal(field).ok_or("the hexadecimal number of a processor")).transpose()?;
    Ok((number, counters))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::collectors::text::mangle;
    use crate::config::HostRoots;

    /// 6.18
    const LINE: &[u8] = b"00001cc7 0000000a 00000002 0 0 0 0 0 0 00000000 00000000 00000000 00000001 00000000 00000000";

    #[test]
    fn lines_of_several_kernels_are_read() {
        assert_eq!(parse_line(LINE), Ok((Some(1), [0x1cc7, 10, 2])));
        // 3.10
        assert_eq!(parse_line(b"000002df 00000000 00000000 0 0 0 0 0 0 00000000"), Ok((None, [0x2df, 0, 0])));
        assert_eq!(parse_line(b"000002df 0000000x"), Err("three hexadecimal numbers of 32 bits"));
    }

    #[test]
    fn totals_neither_wrap_nor_fall() {
        let directory = tempfile::tempdir().unwrap();
        let net = directory.path().join("1/net");
        std::fs::create_dir_all(&net).unwrap();
        std::fs::write(net.join("softnet_stat"), "").unwrap();
        let host = Host::new(HostRoots { procfs: directory.path().to_owned(), ..HostRoots::default() });
        let mut softnet = Softnet::new(&host);
        let mut processed_after = |lines: &[(u32, u32)]| {
            let text: String =
                lines.iter().map(|(cpu, value)| format!("{value:08x} 0 0 0 0 0 0 0 0 0 0 0 {cpu:08x} 0 0\n")).collect();
            std::fs::write(net.join("softnet_stat"), text).unwrap();
            let mut batch = Batch::new(Instant::now());
            softnet.collect(&mut batch).unwrap();
            batch.samples.iter().find(|sample| sample.series.metric() == &PROCESSED).map(|sample| sample.value)
        };
        let near_the_end = 0xffff_fff0;
        assert_eq!(processed_after(&[(0, near_the_end), (1, 100)]), Some(f64::from(near_the_end) + 100.0));
        assert_eq!(processed_after(&[(0, 0x10), (1, 100)]), Some(f64::from(near_the_end) + 132.0), "32 bits are full");
        assert_eq!(processed_after(&[(0, 0x11)]), Some(f64::from(near_the_end) + 133.0), "a processor goes offline");
        assert_eq!(processed_after(&[(0, 0x11), (1, 100)]), Some(f64::from(near_the_end) + 133.0), "and comes back");
    }

    #[test]
    fn lines_without_a_number_that_move_up_are_no_growth() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("1/net/softnet_stat");
        std::fs::create_dir_all(directory.path().join("1/net")).unwrap();
        std::fs::write(&file, "00000100 0 0\n00000200 0 0\n00000300 0 0\n").unwrap();
        let mut softnet = Softnet::new(&Host::new(HostRoots { procfs: directory.path().to_owned(), ..HostRoots::default() }));
        let mut processed = || {
            let mut batch = Batch::new(Instant::now());
            softnet.collect(&mut batch).unwrap();
            batch.samples.first().map(|sample| sample.value)
        };
        assert_eq!(processed(), Some(f64::from(0x600)));
        std::fs::write(&file, "00000101 0 0\n00000301 0 0\n").unwrap();
        assert_eq!(processed(), Some(f64::from(0x600)));
        std::fs::write(&file, "00000103 0 0\n00000304 0 0\n").unwrap();
        assert_eq!(processed(), Some(f64::from(0x605)));
    }

    #[test]
    fn no_input_panics() {
        mangle(LINE, |line| {
            let _ = parse_line(line);
        });
    }
}
