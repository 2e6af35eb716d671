//! File systems that found themselves damaged, or gave up writing.

use serde_json::json;

use super::Pattern;
use crate::model::{Metric, Severity, Unit};

/// `kernel_filesystem_error`
pub static FILESYSTEM_ERROR: Metric = Metric::gauge(
    "kernel_filesystem_error",
    Unit::Count,
    "File system errors that the kernel logged, and file systems it made read-only for them; label device.",
);

pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "ext4_error",
        metric: &FILESYSTEM_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["-fs error (device "],
        // fs/ext4/super.c; `in` where the error comes from the journal. ext2 and ext3 word it alike.
        regex: r"^EXT[234]-fs error \(device (?P<device>[^)]+)\)(?:(?:: | in )(?P<function>[A-Za-z0-9_]+):(?P<source_line>[0-9]+))?(?:: inode #(?P<inode>[0-9]+))?(?:: (?:block [0-9]+: )?comm (?P<comm>.*?): )?",
        read: |line, found| {
            found.label(line, "device");
            ["function", "source_line", "inode", "comm"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "remounted_read_only",
        metric: &FILESYSTEM_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["emounting filesystem read-only", "has been set read-only"],
        regex: r"^(?:EXT[234]|FAT|F2FS)-fs \((?P<device>[^)]+)\): (?:error: )?(?:[Rr]emounting filesystem read-only|Filesystem has been set read-only)",
        read: |line, found| {
            found.label(line, "device");
            found.evidence.insert("remounted_read_only".into(), json!(true));
        },
    },
    Pattern {
        name: "ext4_write_failed",
        metric: &FILESYSTEM_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["-fs (", "JBD", "Aborting journal on device "],
        // fs/ext4/inode.c, fs/ext4/super.c, fs/jbd2/journal.c.
        regex: r"^(?:EXT[234]-fs \((?P<device>[^)]+)\): (?:I/O error while writing superblock|Delayed block allocation failed|failed to convert unwritten extents)|JBD2?: (?:Detected IO errors while flushing file data on|Error -?[0-9]+ detected when updating journal superblock for) (?P<journal>[^ ]+?)(?:-[0-9]+)?\.?$|Aborting journal on device (?P<aborted>[^ ]+?)(?:-[0-9]+)?\.?$)",
        read: |line, found| {
            let device = ["device", "journal", "aborted"].iter().find_map(|name| line.text(name));
            device.into_iter().for_each(|device| found.labels.set("device", device));
        },
    },
    Pattern {
        name: "xfs_error",
        metric: &FILESYSTEM_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["XFS ("],
        // fs/xfs: from 3.10 on.
        regex: r"^XFS \((?P<device>[^)]+)\): (?P<error>(?i:metadata corruption|metadata CRC error|metadata I/O error|corruption detected|corruption of in-memory data|internal error|log I/O error|I/O error detected)|xfs_do_force_shutdown|[Ff]ilesystem has been shut down|Please unmount the filesystem)",
        read: |line, found| {
            found.label(line, "device");
            found.fact(line, "error");
        },
    },
    Pattern {
        name: "btrfs_error",
        metric: &FILESYSTEM_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["BTRFS"],
        // fs/btrfs/super.c, messages.c: `BTRFS: error` where a transaction ends; damaged blocks are a warning to it.
        regex: r"^BTRFS(?::? (?:error|critical|alert|emergency) \(device (?P<device>[^ )]+)(?: state [A-Z]+)?\)|:? (?:warning|info) \(device (?P<damaged>[^ )]+)(?: state [A-Z]+)?\):? (?P<damage>csum failed|checksum (?:error|verify failed)|forced readonly)|:? \(device (?P<old>[^ )]+)\): parent transid verify failed)(?: in (?P<function>[A-Za-z0-9_]+):(?P<source_line>[0-9]+))?",
        read: |line, found| {
            let device = ["device", "damaged", "old"].iter().find_map(|name| line.text(name));
            device.into_iter().for_each(|device| found.labels.set("device", device));
            ["damage", "function", "source_line"].iter().for_each(|name| found.fact(line, name));
        },
    },
];
