//! Polled metrics: one file a family, one row in [`COLLECTORS`] each.
//!
//! A collector reads files of the host and gives samples, and events where the files show what a probe would have seen. It decides nothing, keeps no history beyond what a rate needs, and
//! never waits: all collectors share one thread, and what can block goes through [`Host::isolate`].

mod agent;
mod attribute;
mod batch;
mod cgroup;
mod cpu;
mod descriptors;
mod disk;
mod disk_io;
mod entities;
mod fd;
mod interval;
mod kernel;
mod kernel_filesystem;
mod kernel_hardware;
mod kernel_raid;
mod memory;
mod network;
mod network_conntrack;
mod network_softnet;
mod network_speed;
mod network_tcp;
mod pressure;
mod process;
mod process_stat;
mod text;

use std::time::Duration;

pub use batch::{Batch, Expected};

use crate::config::Config;
use crate::host::{Host, ReadError};
use crate::model::{Labels, Metric, SeriesKey};

/// One family of metrics.
pub trait Collector: Send {
    /// Reads the host once and puts what it finds into `batch`. One bad line costs that line: it goes to [`Batch::skip`].
    ///
    /// # Errors
    /// A file that this kernel should have cannot be read. What the other files gave is in `batch` all the same.
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError>;
}

/// A row of the table: what there is to say about a collector without running it.
pub struct Row {
    /// The stem: file, configuration key, label of the collector's own metrics.
    pub name: &'static str,
    /// What it collects, in a few words.
    pub summary: &'static str,
    /// The files it reads.
    pub source: &'static str,
    /// How often, by configuration.
    pub interval: fn(&Config) -> Duration,
    /// Makes it.
    pub build: fn(&Config, &Host) -> Box<dyn Collector>,
    /// Everything it may emit.
    pub metrics: &'static [&'static Metric],
}

/// All collectors.
pub const COLLECTORS: &[Row] = &[
    cpu::ROW,
    memory::ROW,
    pressure::ROW,
    disk::ROW,
    disk_io::ROW,
    network::ROW,
    network_tcp::ROW,
    network_softnet::ROW,
    network_conntrack::ROW,
    network_speed::ROW,
    process::ROW,
    fd::ROW,
    kernel::ROW,
    kernel_hardware::ROW,
    kernel_raid::ROW,
    kernel_filesystem::ROW,
    cgroup::ROW,
    agent::ROW,
];

/// Defines the metrics of one file, and `METRICS`, the list of them all.
macro_rules! metrics {
    ($($(#[$attribute:meta])* $visibility:vis $kind:ident $name:ident: $unit:ident = $text:literal, $help:literal;)+) => {
        $($(#[$attribute])* $visibility static $name: crate::model::Metric =
            crate::model::Metric::$kind($text, crate::model::Unit::$unit, $help);)+
        /// All metrics of this file.
        pub const METRICS: &[&crate::model::Metric] = &[$(&$name),+];
    };
}
use metrics;

/// What whoever runs the collectors says about each of them, under the label `collector`.
pub mod running {
    super::metrics! {
        /// How long the last run took.
        pub gauge DURATION: Seconds = "agent_collector_duration_seconds", "Time that the collector's last run took.";
        /// Whether the last run ended without error.
        pub gauge SUCCESS: Boolean = "agent_collector_success",
            "Whether the collector's last run could read every file that it should.";
        /// Everything that was left out so far.
        pub counter SKIPPED: Count = "agent_collector_skipped_total",
            "Lines and values that the collector could not read and left out.";
    }
}

/// The series of `metric` that has no labels.
fn plain(metric: &'static Metric) -> SeriesKey {
    SeriesKey::new(metric, Labels::new())
}

/// The series of several metrics with the same labels, to be destructured.
fn keys<const N: usize>(metrics: [&'static Metric; N], labels: &Labels) -> [SeriesKey; N] {
    metrics.map(|metric| SeriesKey::new(metric, labels.clone()))
}
