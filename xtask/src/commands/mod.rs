//! One file per command.

pub mod bench;
pub mod build;
pub mod ci;
pub mod corpus;
pub mod demo;
pub mod ebpf;
pub mod lint;
pub mod run;
pub mod setup;
pub mod test;
pub mod vm_test;
