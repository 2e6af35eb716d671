//! What the tests, the demonstration and the benchmark share: real faults, a receiver for alerts, and the agent as a process.
//!
//! It knows the agent only from outside, as a program with a configuration; it never links to it.

pub mod agent_process;
pub mod faults;
pub mod mail_server;
pub mod receiver;
