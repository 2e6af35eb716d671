//! Errors that file systems have found in themselves: `/sys/fs/ext4/*/errors_count` (Documentation/ABI/testing/sysfs-fs-ext4).
//!
//! The count is kept on the disk, so it also tells of errors before this boot. Other file systems tell their log alone.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use super::attribute::Attributes;
use super::entities::Entities;
use super::{Batch, Collector, Row, metrics};
use crate::host::{Host, ReadError};
use crate::model::{Labels, SeriesKey};

pub const ROW: Row = Row {
    name: "kernel_filesystem",
    summary: "errors that file systems have found in themselves",
    source: "/sys/fs/ext4/*/errors_count",
    interval: |config| config.agent.collect_interval.max(INTERVAL),
    build: |_, host| Box::new(Filesystem { host: host.clone(), devices: Entities::default() }),
    metrics: METRICS,
};

metrics! {
    counter ERRORS: Count = "kernel_filesystem_errors_total",
        "Errors that ext4 found in the file system since e2fsck last cleared it (/sys/fs/ext4/*/errors_count, Documentation/ABI/testing/sysfs-fs-ext4).";
}

const INTERVAL: Duration = Duration::from_secs(60);
const MAX_DEVICES: usize = 256;

struct Filesystem {
    host: Host,
    devices: Entities<OsString, SeriesKey>,
}

impl Collector for Filesystem {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        // Where ext4 is not in use there is no directory. `features` is no device.
        for entry in fs::read_dir(self.host.sysfs("fs/ext4")).into_iter().flatten().flatten().take(MAX_DEVICES) {
            let name = entry.file_name();
            let mut attributes = Attributes::new(entry.path());
            if let Some(errors) = attributes.number("errors_count") {
                let labels = || Labels::new().with("device", name.to_string_lossy().into_owned());
                let make = || SeriesKey::new(&ERRORS, labels());
                self.devices.see(&name, make, |series| batch.push_count(series, errors));
            }
            for skip in attributes.skips {
                batch.skip(|| skip);
            }
        }
        self.devices.end_run();
        Ok(())
    }
}
