//! The kernel's answers to sock_diag(7).

#![no_main]

use libfuzzer_sys::fuzz_target;
use sysops_agent::host::TcpStates;

fuzz_target!(|input: &[u8]| {
    let _ = TcpStates::of_answer(input);
});
