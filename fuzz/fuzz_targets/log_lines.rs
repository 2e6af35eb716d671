//! Lines of syslog and dmesg, cut out of a stream that comes in pieces.

#![no_main]

use std::sync::LazyLock;

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use sysops_agent::logs::lines::Lines;
use sysops_agent::logs::{dmesg_line, syslog_line};
use sysops_agent::model::Timestamp;

/// Small, so that it is reached.
const LIMIT: usize = 512;

static NOW: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::from_secs(1_795_279_924));

fuzz_target!(|input: &[u8]| {
    // The first byte is the length of the pieces.
    let Some((size, stream)) = input.split_first() else { return };
    let mut lines = Lines::new(LIMIT);
    let mut taken = 0;
    for piece in stream.chunks(usize::from(*size).max(1)) {
        lines.take(piece, |line| {
            assert!(line.bytes.len() <= LIMIT);
            taken += line.len;
            let text = line.text();
            if let Some(line) = dmesg_line::parse(&text) {
                let _ = line.stamp.at(*NOW, &TimeZone::UTC);
            }
            if let Some(line) = syslog_line::parse(&text) {
                let _ = line.stamp.at(*NOW, &TimeZone::UTC);
            }
            true
        });
    }
    lines.rest(|line| taken += line.len);
    assert_eq!(taken, stream.len() as u64);
});
