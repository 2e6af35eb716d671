//! One file per command.

pub mod build;
pub mod ebpf;
pub mod run;
pub mod setup;
pub mod test;
