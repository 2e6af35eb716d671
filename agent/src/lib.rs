//! sysops-agent: watches a Linux host through eBPF and `/proc` and turns what matters into alerts.
//!
//! The rooms of the house and who may import whom: docs/architecture.md. Data goes one way: sources make observations, the
//! engine turns them into alerts, notifiers carry those out; `runtime` alone knows all of them.

pub mod alerting;
pub mod cli;
pub mod collectors;
pub mod commands;
pub mod config;
pub mod database;
pub mod engine;
pub mod exporters;
pub mod host;
pub mod logs;
pub mod model;
pub mod notifiers;
pub mod probes;
pub mod runtime;
