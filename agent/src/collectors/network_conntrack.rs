//! The table of tracked connections, which refuses new ones when it is full (Documentation/networking/nf_conntrack-sysctl.rst).
//!
//! Hosts whose kernel has not loaded connection tracking have no such files, and nothing to say.

use super::interval::percent;
use super::text::{fields, hexadecimal, number};
use super::{Batch, Collector, Row, keys, metrics};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "network_conntrack",
    summary: "tracked connections, and those refused",
    source: "/proc/sys/net/netfilter, /proc/1/net/stat/nf_conntrack",
    interval: |config| config.collector.network_interval,
    build: |_, host| Box::new(Conntrack::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge TRACKED: Count = "network_conntrack_entries",
        "Connections that netfilter tracks (nf_conntrack_count, Documentation/networking/nf_conntrack-sysctl.rst).";
    gauge MAX: Count = "network_conntrack_entries_limit",
        "Most connections that netfilter tracks (nf_conntrack_max, Documentation/networking/nf_conntrack-sysctl.rst).";
    gauge USAGE: Percent = "network_conntrack_usage_percent", "Tracked connections by the most that netfilter tracks.";
    counter DROPS: Count = "network_conntrack_drops_total",
        "Packets dropped because no connection could be tracked for them (/proc/net/stat/nf_conntrack drop).";
    counter INSERT_FAILED: Count = "network_conntrack_insert_failed_total",
        "Connections that could not be entered into the table (/proc/net/stat/nf_conntrack insert_failed).";
    counter EARLY_DROPS: Count = "network_conntrack_early_drops_total",
        "Tracked connections given up to make room for new ones (/proc/net/stat/nf_conntrack early_drop).";
}

/// Columns of `/proc/net/stat/nf_conntrack`, in the order of the series.
const COLUMNS: [&[u8]; 3] = [b"drop", b"insert_failed", b"early_drop"];

struct Conntrack {
    tracked: ProcFile,
    max: ProcFile,
    stat: ProcFile,
    gauges: [SeriesKey; 3],
    counters: [SeriesKey; 3],
}

impl Conntrack {
    fn new(host: &Host) -> Self {
        Self {
            tracked: ProcFile::new(host.procfs("sys/net/netfilter/nf_conntrack_count")),
            max: ProcFile::new(host.procfs("sys/net/netfilter/nf_conntrack_max")),
            stat: ProcFile::new(host.procfs_of_init("net/stat/nf_conntrack")),
            gauges: keys([&TRACKED, &MAX, &USAGE], &Labels::new()),
            counters: keys([&DROPS, &INSERT_FAILED, &EARLY_DROPS], &Labels::new()),
        }
    }

    fn collect_stat(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let Some(text) = self.stat.read_if_exists()? else { return Ok(()) };
        let mut places = None;
        // One line a processor.
        let mut sums = [None; 3];
        batch.lines(text, |_, line| {
            let Some(places) = places else {
                places = Some(COLUMNS.map(|name| fields(line).position(|field| field == name)));
                return Ok(());
            };
            for (sum, place) in sums.iter_mut().zip(places) {
                let Some(place) = place else { continue };
                let value = fields(line).nth(place).and_then(hexadecimal).ok_or("a hexadecimal number in each column")?;
                *sum = Some(sum.unwrap_or(0_u64).saturating_add(value.into()));
            }
            Ok(())
        });
        for (series, sum) in self.counters.iter().zip(sums) {
            if let Some(sum) = sum {
                batch.push_count(series, sum);
            }
        }
        Ok(())
    }
}

/// The number that a file holds; `None` where there is no such file or it holds none, which is a skip.
fn read_number(batch: &mut Batch, file: &mut ProcFile) -> Result<Option<u64>, ReadError> {
    let Some(text) = file.read_if_exists()? else { return Ok(None) };
    let mut value = None;
    batch.lines(text, |_, line| {
        value = Some(number(line).ok_or("a number")?);
        Ok(())
    });
    Ok(value)
}

impl Collector for Conntrack {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let tracked = read_number(batch, &mut self.tracked);
        let max = read_number(batch, &mut self.max);
        let [tracked_series, max_series, usage_series] = &self.gauges;
        for (series, value) in [(tracked_series, &tracked), (max_series, &max)] {
            if let Ok(Some(value)) = value {
                batch.push_count(series, *value);
            }
        }
        if let (Ok(Some(tracked)), Ok(Some(max))) = (&tracked, &max)
            && let Some(usage) = percent(*tracked as f64, *max as f64)
        {
            batch.push(usage_series, usage);
        }
        self.collect_stat(batch)?;
        tracked.and(max).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::collectors::text::mangle;
    use crate::config::HostRoots;

    const STAT: &str = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop\n\
        0000000a  00000000 00000000 00000000 000001bc 00000f5e 00000000 00000003 00000000 00000001 00000002 00000000\n\
        0000000a  00000000 00000000 00000000 00000014 00000a45 00000000 00000003 00000000 00000010 00000001 00000000\n";

    /// What a host with this file gives.
    fn run(text: &[u8]) -> (Vec<String>, Option<String>) {
        let directory = tempfile::tempdir().unwrap();
        let stat = directory.path().join("1/net/stat");
        std::fs::create_dir_all(&stat).unwrap();
        std::fs::write(stat.join("nf_conntrack"), text).unwrap();
        let host = Host::new(HostRoots { procfs: directory.path().to_owned(), ..HostRoots::default() });
        let mut batch = Batch::new(Instant::now());
        Conntrack::new(&host).collect(&mut batch).unwrap();
        (batch.samples.iter().map(|sample| format!("{} {}", sample.series, sample.value)).collect(), batch.first_skip)
    }

    #[test]
    fn processors_are_added_up_by_the_names_of_columns() {
        let expected = [
            "network_conntrack_drops_total 3",
            "network_conntrack_insert_failed_total 17",
            "network_conntrack_early_drops_total 0",
        ];
        assert_eq!(run(STAT.as_bytes()), (expected.map(String::from).to_vec(), None));
        let (samples, skip) = run(b"entries drop\n1 x\n2 7\n");
        assert_eq!(samples, ["network_conntrack_drops_total 7"]);
        assert!(skip.unwrap().ends_with("nf_conntrack line 2: expected a hexadecimal number in each column"));
    }

    #[test]
    fn no_input_panics() {
        mangle(STAT.as_bytes(), |text| {
            run(text);
        });
    }
}
