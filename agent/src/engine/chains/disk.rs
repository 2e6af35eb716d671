//! A device answers slowly, tasks wait for it, the kernel says that one hangs.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Link, Row, Story, WINDOW, series};
use crate::engine::analyzers::event::{BLOCK_IO_ERROR, BLOCK_IO_SLOW, HUNG_TASK};
use crate::engine::analyzers::{Finding, Phase};
use crate::engine::store::{SeriesId, Store};
use crate::model::{Evidence, Timestamp};

pub(super) const ROW: Row =
    Row { name: "disk", summary: "a device was slow or busy, tasks waited in the kernel, one hung", build: || Box::new(Disk) };

/// Mean wait of a device's requests in seconds, and share of time in percent that it was busy, from which it is worth a word.
const SLOW: f64 = 0.05;
const BUSY: f64 = 90.0;

struct Disk;

impl Story for Disk {
    fn causes(&mut self, at: Timestamp, finding: &Finding, store: &Store) -> Vec<Link> {
        let of_device = [BLOCK_IO_SLOW.name, BLOCK_IO_ERROR.name].contains(&finding.metric);
        if finding.phase != Phase::Occurred || !(of_device || finding.metric == HUNG_TASK.name) {
            return Vec::new();
        }
        let device = if of_device { finding.labels.get("device") } else { None };
        slow_device(at, store, device).into_iter().chain(blocked_tasks(at, store)).collect()
    }
}

/// The latest run of samples, up to now, of which each is at least as large as a limit: since when, and its largest.
fn run(store: &Store, id: SeriesId, at: Timestamp, limit: f64) -> Option<(Timestamp, f64)> {
    let mut found: Option<(Timestamp, f64)> = None;
    for (time, value) in store.window(id, at.minus(WINDOW), at) {
        found = (value >= limit).then(|| found.map_or((time, value), |(since, most)| (since, most.max(value))));
    }
    found
}

/// The device that was slowest or busiest, of one or of all.
fn slow_device(at: Timestamp, store: &Store, only: Option<&str>) -> Option<Link> {
    let mut devices = BTreeMap::<&str, (Timestamp, Evidence, Vec<String>)>::new();
    for (metric, limit, name) in
        [("disk_await_seconds", SLOW, "await_seconds"), ("disk_utilization_percent", BUSY, "utilization_percent")]
    {
        for (id, key) in series(store, metric, &[]) {
            let Some(device) = key.labels().get("device").filter(|device| only.is_none_or(|only| only == *device)) else {
                continue;
            };
            let Some((since, most)) = run(store, id, at, limit) else { continue };
            let (begin, evidence, words) = devices.entry(device).or_insert_with(|| (since, Evidence::new(), Vec::new()));
            *begin = since.min(*begin);
            evidence.insert(name.into(), json!(most));
            words.push(if metric == "disk_await_seconds" {
                format!("took {:.0} ms a request", most * 1e3)
            } else {
                format!("was busy {most:.0}% of the time")
            });
        }
    }
    // Of several the one that was slow first.
    let (device, (since, mut evidence, words)) = devices.into_iter().min_by_key(|(_, (since, ..))| *since)?;
    evidence.insert("device".into(), json!(device));
    Some(Link { at: since, kind: "disk_latency", text: format!("{device} {}", words.join(" and ")), evidence })
}

/// That tasks waited in uninterruptible sleep.
fn blocked_tasks(at: Timestamp, store: &Store) -> Option<Link> {
    let (id, _) = series(store, "process_uninterruptible", &[]).next()?;
    let (since, most) = run(store, id, at, 1.0)?;
    let mut evidence = Evidence::new();
    evidence.insert("tasks".into(), json!(most));
    let text = format!("up to {most} processes were blocked in the kernel");
    Some(Link { at: since, kind: "blocked_tasks", text, evidence })
}
