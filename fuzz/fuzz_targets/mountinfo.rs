//! `/proc/PID/mountinfo`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sysops_agent::host::parse_mount;

fuzz_target!(|input: &[u8]| {
    for line in input.split(|&byte| byte == b'\n') {
        if let Ok(mount) = parse_mount(line) {
            assert!(mount.point.is_absolute());
        }
    }
});
