//! The configuration.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sysops_agent::config::parse_bytes;

fuzz_target!(|input: &[u8]| {
    let env = |name: &str| (name.len() % 2 == 0).then(|| format!("value of {name}"));
    if let Err(problems) = parse_bytes(input, Path::new("config.toml"), &env) {
        assert!(problems.iter().count() > 0 && !problems.to_string().is_empty());
    }
});
