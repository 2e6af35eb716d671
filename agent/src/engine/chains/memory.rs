//! A process grows, the kernel reclaims and stalls, the OOM killer chooses a victim, the victim comes back.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::json;

use super::{Identity, Link, Row, Story, WINDOW, rise, series};
use crate::engine::analyzers::event::OOM_KILL;
use crate::engine::analyzers::{Finding, Phase};
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::model::{Evidence, SeriesKey, Timestamp, bytes};

pub(super) const ROW: Row = Row {
    name: "memory",
    summary: "a process grew, memory was reclaimed, the OOM killer chose, the victim came back",
    build: || Box::new(Memory::default()),
};

/// Growth in bytes that is worth a word, at least, and as a share of what the process has.
const LEAST_GROWTH: f64 = 8.0 * 1024.0 * 1024.0;
const LEAST_SHARE: f64 = 0.2;

/// Seconds that tasks waited for memory, at least.
const LEAST_STALL: f64 = 0.01;

/// How long after its end a process that starts under the same name is one that came back.
const RETURN: Duration = Duration::from_secs(5 * 60);
/// Nanoseconds by which the start of a process may seem too early: the kernel tells the time of boot in whole seconds.
const CLOCK_ERROR: f64 = 1.1e9;
/// Victims that are remembered.
const MAX_VICTIMS: usize = 64;

const START: &str = "process_start_time_seconds";

struct Victim {
    identity: Identity,
    at: Timestamp,
}

#[derive(Default)]
struct Memory {
    victims: VecDeque<Victim>,
}

impl Story for Memory {
    fn causes(&mut self, at: Timestamp, finding: &Finding, store: &Store) -> Vec<Link> {
        if finding.metric != OOM_KILL.name || finding.phase != Phase::Occurred {
            return Vec::new();
        }
        if self.victims.len() >= MAX_VICTIMS {
            self.victims.pop_front();
        }
        self.victims.push_back(Victim { identity: (finding.metric.into(), finding.labels.clone()), at: finding.since });
        let limit = finding.evidence.get("limit_cgroup").and_then(|cgroup| cgroup.as_str());
        grower(at, store, limit).into_iter().chain(reclaim(at, store, limit, finding)).collect()
    }

    fn watch(&self, key: &SeriesKey) -> bool {
        key.metric().name == START
    }

    fn effect(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store) -> Option<(Identity, Link)> {
        let key = store.key(id)?;
        self.victims.retain(|victim| at.since(victim.at) <= RETURN);
        let came_back = |victim: &Victim| {
            let (was, is) = (&victim.identity.1, key.labels());
            let elsewhere = was.get("cgroup").zip(is.get("cgroup")).is_some_and(|(was, is)| was != is);
            let later = value * 1e9 >= victim.at.as_nanos() as f64 - CLOCK_ERROR
                && store.window(id, victim.at.minus(WINDOW), victim.at).next().is_none();
            was.get("comm").is_some()
                && was.get("comm") == is.get("comm")
                && was.get("pid") != is.get("pid")
                && later
                && !elsewhere
        };
        let found = self.victims.iter().position(came_back)?;
        let victim = self.victims.remove(found)?;
        let label = |name| key.labels().get(name).unwrap_or("?");
        let started = Timestamp::from_nanos((value * 1e9) as i64).max(victim.at);
        let after = text::duration(started.since(victim.at));
        let mut evidence = Evidence::new();
        evidence.insert("pid".into(), json!(label("pid")));
        let text = format!("{} is back as pid {}, {after} after the kill", label("comm"), label("pid"));
        Some((victim.identity, Link { at: started, kind: "restart", text, evidence }))
    }
}

/// Whether a cgroup is `top` or below it.
fn is_below(cgroup: &str, top: &str) -> bool {
    top == "/" || cgroup.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How a process grew, in bytes.
struct Growth<'a> {
    since: Timestamp,
    from: f64,
    to: f64,
    key: &'a SeriesKey,
    cgroup: Option<&'a str>,
}

/// The process that grew most, of those that the limit is shared by.
fn grower(at: Timestamp, store: &Store, limit: Option<&str>) -> Option<Link> {
    let mut most: Option<Growth<'_>> = None;
    for (id, key) in series(store, "process_rss_bytes", &[]) {
        let pid = key.labels().get("pid").unwrap_or_default();
        let cgroup = series(store, START, &[("pid", pid)]).find_map(|(_, key)| key.labels().get("cgroup"));
        if limit.is_some_and(|limit| !cgroup.is_some_and(|cgroup| is_below(cgroup, limit))) {
            continue;
        }
        let (mut least, mut since, mut last) = (f64::INFINITY, at, None);
        for (time, value) in store.window(id, at.minus(WINDOW), at) {
            if value < least {
                (least, since) = (value, time);
            }
            last = Some(value);
        }
        let Some(last) = last else { continue };
        let growth = last - least;
        let matters = growth >= LEAST_GROWTH && growth >= last * LEAST_SHARE;
        if matters && most.as_ref().is_none_or(|most| growth > most.to - most.from) {
            most = Some(Growth { since, from: least, to: last, key, cgroup });
        }
    }
    let Growth { since, from: least, to: last, key, cgroup } = most?;
    let label = |name| key.labels().get(name).unwrap_or("?");
    let mut evidence = Evidence::new();
    evidence.insert("comm".into(), json!(label("comm")));
    evidence.insert("pid".into(), json!(label("pid")));
    if let Some(cgroup) = cgroup {
        evidence.insert("cgroup".into(), json!(cgroup));
    }
    evidence.insert("from_bytes".into(), json!(least));
    evidence.insert("to_bytes".into(), json!(last));
    let seconds = at.since(since).as_secs_f64();
    if seconds > 0.0 {
        evidence.insert("bytes_per_second".into(), json!(((last - least) / seconds).round()));
    }
    let place = cgroup.map(|cgroup| format!(" in cgroup {cgroup}")).unwrap_or_default();
    let text = format!(
        "{} (pid {}){place} grew from {} to {} within {}",
        label("comm"),
        label("pid"),
        bytes(least),
        bytes(last),
        text::duration(at.since(since))
    );
    Some(Link { at: since, kind: "growth", text, evidence })
}

/// That memory ran short before somebody was killed: limits that were hit, tasks that waited, pages that were looked for.
fn reclaim(at: Timestamp, store: &Store, limit: Option<&str>, finding: &Finding) -> Option<Link> {
    let mut evidence = Evidence::new();
    let (mut begin, mut words) = (at, Vec::new());
    if let Some(limit) = limit {
        for event in ["max", "high"] {
            let counter = series(store, "cgroup_memory_events_total", &[("cgroup", limit), ("event", event)]).next();
            let mut risen = counter.and_then(|(id, _)| rise(store, id, at));
            // The kill itself knows the counter as it is now, which may not have been polled since the limit was reached.
            if event == "max"
                && let Some(now) = finding.evidence.get("limit_hits").and_then(|hits| hits.as_f64())
            {
                let polled = counter.and_then(|(id, _)| store.latest(id)).map_or(0.0, |(_, value)| value);
                let more = now - polled;
                if more > 0.0 {
                    risen = Some(risen.map_or((more, finding.since), |(count, since)| (count + more, since)));
                }
            }
            if let Some((count, since)) = risen {
                begin = begin.min(since);
                evidence.insert(format!("limit_{event}"), json!(count));
                words.push(format!("cgroup {limit} hit memory.{event} {}", times(count)));
            }
        }
    }
    let stalled = series(store, "pressure_stalled_seconds_total", &[("resource", "memory"), ("share", "some")]).next();
    if let Some((seconds, since)) = stalled.and_then(|(id, _)| rise(store, id, at)).filter(|(seconds, _)| *seconds >= LEAST_STALL)
    {
        begin = begin.min(since);
        evidence.insert("stalled_seconds".into(), json!(seconds));
        words.push(format!("tasks waited {seconds:.2} s for memory"));
    }
    let counters = [
        ("memory_allocation_stalls_total", &[][..], "allocation_stalls", "allocations stalled"),
        ("memory_page_scan_total", &[("reclaimer", "direct")], "pages_scanned", "pages were looked at in direct reclaim"),
    ];
    for (metric, labels, name, what) in counters {
        let total: Vec<_> = series(store, metric, labels).filter_map(|(id, _)| rise(store, id, at)).collect();
        let count: f64 = total.iter().map(|(count, _)| count).sum();
        if count > 0.0 {
            begin = total.iter().fold(begin, |begin, (_, since)| begin.min(*since));
            evidence.insert(name.into(), json!(count));
            words.push(format!("{count} {what}"));
        }
    }
    (!words.is_empty()).then(|| Link {
        at: begin,
        kind: "reclaim",
        text: format!("memory ran short: {}", words.join(", ")),
        evidence,
    })
}

fn times(count: f64) -> String {
    if count == 1.0 { "once".to_owned() } else { format!("{count} times") }
}
