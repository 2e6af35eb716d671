//! Lines of the kernel log, of which each may depend on those before.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use sysops_agent::engine::patterns::{Patterns, named};
use sysops_agent::model::Timestamp;

thread_local! {
    static PATTERNS: RefCell<Patterns> = RefCell::new(Patterns::new());
}

/// More than what one line says about the next lives.
const LATER: i64 = 60_000_000_000;

fuzz_target!(|input: &str| {
    // Expressions that were compiled for one input serve all.
    PATTERNS.with_borrow_mut(|patterns| {
        for line in input.lines() {
            named(line);
            if let Some((_, found)) = patterns.read(Timestamp::from_nanos(0), line) {
                assert!(found.value.is_finite());
            }
        }
        patterns.read(Timestamp::from_nanos(LATER), "");
    });
});
