//! Entries of the journal, as JSON and in the export format.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sysops_agent::logs::journal_entry;

fuzz_target!(|input: &[u8]| {
    for line in input.split(|byte| *byte == b'\n') {
        if let Some(entry) = journal_entry::parse(line) {
            entry.text();
        }
    }
    let mut export = input;
    let mut newlines = 0;
    while let Ok(Some((entry, more))) = journal_entry::read_export(&mut export) {
        entry.text();
        newlines += more;
    }
    assert!(newlines <= input.len() as u64 + 1);
});
