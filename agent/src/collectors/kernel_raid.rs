//! Software RAID: `/sys/block/md*/md` (Documentation/admin-guide/md.rst).
//!
//! Older kernels take the array's lock to answer, which a rebuild that hangs holds: each array is asked where it can hang alone.

use std::path::PathBuf;
use std::time::Duration;

use super::attribute::{Attributes, numbered};
use super::entities::Entities;
use super::interval::percent;
use super::{Batch, Collector, Expected, Row, keys, metrics};
use crate::host::{Host, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "kernel_raid",
    summary: "state of software RAID arrays",
    source: "/sys/block/md*/md",
    interval: |config| config.agent.collect_interval.max(INTERVAL),
    build: |_, host| Box::new(Raid { host: host.clone(), arrays: Entities::default() }),
    metrics: METRICS,
};

metrics! {
    gauge ACTIVE: Boolean = "kernel_raid_active",
        "Whether the array is running (/sys/block/md*/md/array_state, Documentation/admin-guide/md.rst).";
    gauge DISKS: Count = "kernel_raid_disks",
        "Disks that the array has when it is whole, without spares (/sys/block/md*/md/raid_disks, Documentation/admin-guide/md.rst).";
    gauge DEGRADED: Count = "kernel_raid_disks_missing",
        "Disks that the array lacks; absent for levels without redundancy (/sys/block/md*/md/degraded, Documentation/admin-guide/md.rst).";
    gauge SYNC: Percent = "kernel_raid_sync_percent",
        "How far a resync, recovery, check, repair or reshape is; absent while there is none (/sys/block/md*/md/sync_completed, Documentation/admin-guide/md.rst).";
    gauge MISMATCHES: Count = "kernel_raid_mismatched_sectors",
        "Sectors that the last check or repair found different (/sys/block/md*/md/mismatch_cnt, Documentation/admin-guide/md.rst).";
}

const INTERVAL: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(1);
const MAX_ARRAYS: usize = 128;

/// An array; one of another level is another series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Array {
    name: String,
    level: String,
}

struct Raid {
    host: Host,
    arrays: Entities<Array, [SeriesKey; 5]>,
}

impl Collector for Raid {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        for (number, path) in numbered(&self.host.sysfs("block"), "md", MAX_ARRAYS) {
            let name = format!("md{number}");
            let (level, values, skips) =
                match self.host.isolate().call(&format!("the array {name}"), DEADLINE, move || read_array(path)) {
                    Ok(Some(read)) => read,
                    Ok(None) => continue,
                    Err(stuck) => {
                        batch.skip(|| stuck.to_string());
                        continue;
                    }
                };
            let array = Array { name, level };
            let labels = || Labels::new().with("array", array.name.as_str()).with("level", array.level.as_str());
            let make = || keys([&ACTIVE, &DISKS, &DEGRADED, &SYNC, &MISMATCHES], &labels());
            self.arrays.see(&array, make, |series| {
                for (series, value) in series.iter().zip(values) {
                    if let Some(value) = value {
                        batch.push(series, value);
                    }
                }
            });
            for skip in skips {
                batch.skip(|| skip);
            }
        }
        self.arrays.end_run();
        Ok(())
    }
}

/// Level, values in the order of the series, and what made no sense. `None` of something that is no array.
fn read_array(path: PathBuf) -> Option<(String, [Option<f64>; 5], Vec<String>)> {
    let mut attributes = Attributes::new(path.join("md"));
    let state = attributes.text("array_state")?;
    // An array that is being put together has no level yet.
    let level = attributes.text("level").filter(|level| !level.is_empty()).unwrap_or_else(|| "none".to_owned());
    let active = !matches!(state.as_str(), "clear" | "inactive" | "suspended" | "broken");
    let counts = ["raid_disks", "degraded", "mismatch_cnt"].map(|name| attributes.number(name).map(|count| count as f64));
    let [disks, degraded, mismatches] = counts;
    let sync = attributes.text("sync_completed").map_or(Ok(None), |text| parse_progress(text.as_bytes()));
    let mut skips = attributes.skips;
    let sync = sync.unwrap_or_else(|expected| {
        skips.push(format!("{}/md/sync_completed: expected {expected}", path.display()));
        None
    });
    Some((level, [Some(f64::from(u8::from(active))), disks, degraded, sync, mismatches], skips))
}

/// `1234 / 5678` sectors in percent; `None` of `none` and of a resync that is delayed.
fn parse_progress(text: &[u8]) -> Result<Option<f64>, Expected> {
    let mut rest = super::text::fields(text);
    match (rest.number(), rest.next(), rest.number()) {
        (Some(done), Some(b"/"), Some(all)) => Ok(percent(done as f64, all as f64)),
        _ if matches!(text, b"none" | b"delayed") => Ok(None),
        _ => Err("none, delayed, or two numbers with a slash between them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    #[test]
    fn progress_is_read() {
        assert_eq!(parse_progress(b"1000 / 4000"), Ok(Some(25.0)));
        assert_eq!([parse_progress(b"none"), parse_progress(b"delayed"), parse_progress(b"0 / 0")], [Ok(None); 3]);
        assert!(parse_progress(b"1000 4000").is_err());
    }

    #[test]
    fn no_input_panics() {
        mangle(b"1000 / 4000", |text| {
            let _ = parse_progress(text);
        });
    }
}
