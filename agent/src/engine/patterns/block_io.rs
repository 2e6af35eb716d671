//! Failed block requests, and devices that a driver or an array gives up.

use serde_json::json;

use super::Pattern;
use crate::engine::analyzers::event;
use crate::model::Severity;

pub(super) const PATTERNS: &[Pattern] = &[
    Pattern {
        name: "block_io_error",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: Some("block_io"),
        // block/blk-core.c, blk-mq.c. "operation not supported" is no failure of the device.
        needles: &[" error, dev "],
        regex: r"^(?:end_request: |blk_update_request: |print_req_error: )?(?P<error>I/O|critical (?:target|nexus|medium|space allocation)|timeout|recoverable transport|protection|device offline|device resource) error, dev (?P<device>[^ ,]+), sector (?P<sector>[0-9]+)(?:.* op 0x[0-9a-f]+:\((?P<op>[A-Z_]+)\))?",
        read: |line, found| {
            found.label(line, "device");
            if let Some(operation) = line.text("op").and_then(operation) {
                found.labels.set("operation", operation);
            }
            found.fact(line, "sector");
            let error = line.text("error").unwrap_or_default();
            found.evidence.insert("error".into(), json!(error_name(error).unwrap_or(error)));
        },
    },
    Pattern {
        name: "buffer_io_error",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: Some("block_io"),
        needles: &["Buffer I/O error on dev"],
        regex: r"^Buffer I/O error on dev(?:ice)? (?P<device>[^ ,]+), logical block (?P<logical_block>[0-9]+)",
        read: |line, found| {
            found.label(line, "device");
            found.fact(line, "logical_block");
        },
    },
    Pattern {
        name: "nvme_error",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: Some("block_io"),
        needles: &[" / sc 0x"],
        // drivers/nvme/host/core.c, nvme_log_error(): 5.18 and later.
        regex: r"^(?P<device>nvme[0-9]+(?:c[0-9]+)?n[0-9]+): (?P<command>[A-Za-z0-9/ _-]+)\((?P<opcode>0x[0-9a-f]+)\) @ LBA (?P<lba>[0-9]+), (?P<blocks>[0-9]+) blocks, (?P<status>.*) \(sct (?P<sct>0x[0-9a-f]+) / sc (?P<sc>0x[0-9a-f]+)\)",
        read: |line, found| {
            found.label(line, "device");
            ["command", "lba", "blocks", "status", "sct", "sc"].iter().for_each(|name| found.fact(line, name));
        },
    },
    Pattern {
        name: "nvme_timeout",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["timeout, ", "controller is down; will reset"],
        // drivers/nvme/host/pci.c, nvme_timeout().
        regex: r"^nvme (?P<device>nvme[0-9]+): (?:I/O (?:tag )?(?P<tag>[0-9]+) (?:\([0-9a-f]+\) )?(?:opcode 0x[0-9a-f]+ \([^)]*\) )?QID (?P<queue>[0-9]+) timeout, |controller is down; will reset)",
        read: |line, found| {
            found.label(line, "device");
            found.fact(line, "queue");
            found.evidence.insert("error".into(), json!("ETIMEDOUT"));
        },
    },
    Pattern {
        name: "ata_error",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &[": failed command: "],
        // drivers/ata/libata-eh.c, ata_eh_link_report().
        regex: r"^(?P<device>ata[0-9]+(?:\.[0-9]+)?): failed command: (?P<command>[A-Z0-9 /_-]+)",
        read: |line, found| {
            found.label(line, "device");
            found.fact(line, "command");
        },
    },
    Pattern {
        name: "array_member_failed",
        metric: &event::BLOCK_IO_ERROR,
        severity: Severity::Critical,
        signal: None,
        needles: &["Disk failure on ", "Failing path "],
        // drivers/md/raid1.c and its siblings, drivers/md/dm-mpath.c.
        regex: r"^(?:md/[a-z0-9]+:(?P<array>md[^:]+): Disk failure on (?P<device>[^ ,]+)[ ,]|device-mapper: multipath: (?P<map>[0-9:]+): Failing path (?P<path>[0-9:]+))",
        read: |line, found| {
            found.label(line, "device");
            ["array", "map", "path"].iter().for_each(|name| found.label(line, name));
        },
    },
];

/// The probe's name of an operation that the kernel's log writes in capitals (include/linux/blk_types.h).
fn operation(op: &str) -> Option<&'static str> {
    Some(match op {
        "READ" => "read",
        "WRITE" => "write",
        "FLUSH" => "flush",
        "DISCARD" | "SECURE_ERASE" => "discard",
        _ => return None,
    })
}

/// The probe's name of an error that the kernel's log puts into words (blk_errors, block/blk-core.c).
fn error_name(error: &str) -> Option<&'static str> {
    Some(match error {
        "I/O" => "EIO",
        "timeout" => "ETIMEDOUT",
        "recoverable transport" => "ENOLINK",
        "critical target" => "EREMOTEIO",
        "critical nexus" => "EBADE",
        "critical medium" => "ENODATA",
        "critical space allocation" => "ENOSPC",
        "protection" => "EILSEQ",
        _ => return None,
    })
}
