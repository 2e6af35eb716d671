//! What is usual of a polled series: by the last hour, and by the time of day.
//!
//! The machinery of the analyzers `zscore` and `ema`, and the table of the metrics that they judge. A deviation must be large as the
//! metric goes ([`Watched`]), not only large in standard deviations: those of a quiet host are small. Counters are judged by
//! their rate. Hours and days are those of UTC, as the engine knows no zone; a rhythm is the same in any.

use std::time::Duration;

use super::robust::Robust;
use crate::model::{Kind, Labels, SeriesKey, Timestamp, Unit};

/// The part of its level by which a value that may rise by more must fall.
const MOST_FALL: f64 = 0.7;

/// In which direction a deviation matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// More than usual.
    Up,
    /// Less as well: what should be busy is not.
    Both,
}

/// A metric of which an outlier means something to whoever runs the host.
#[derive(Debug, PartialEq)]
pub(super) struct Watched {
    pub(super) metric: &'static str,
    /// Labels that a series must have to be meant.
    only: &'static [(&'static str, &'static str)],
    /// What a human calls it.
    name: &'static str,
    side: Side,
    /// Deviation that matters, in the metric's unit, of counters by second.
    absolute: f64,
    /// The same as a part of the usual level; the greater of both holds.
    relative: f64,
}

const fn up(metric: &'static str, name: &'static str, absolute: f64, relative: f64) -> Watched {
    Watched { metric, only: &[], name, side: Side::Up, absolute, relative }
}

const fn both(metric: &'static str, name: &'static str, absolute: f64, relative: f64) -> Watched {
    Watched { metric, only: &[], name, side: Side::Both, absolute, relative }
}

const fn of(only: &'static [(&'static str, &'static str)], watched: Watched) -> Watched {
    Watched { only, ..watched }
}

/// All cores together.
const ALL: &[(&str, &str)] = &[("core", "all")];
/// Some tasks wait, over the last minute.
const SOME: &[(&str, &str)] = &[("share", "some"), ("window", "60s")];

/// The metrics that are judged. Limits of their own, and what only ever grows (disk usage, memory of a process), are the business of
/// `threshold`, `trend` and `leak`.
pub(super) const WATCHED: &[Watched] = &[
    of(ALL, both("cpu_usage_percent", "CPU usage", 20.0, 0.3)),
    of(ALL, up("cpu_iowait_percent", "I/O wait", 15.0, 0.5)),
    of(ALL, up("cpu_steal_percent", "CPU steal", 10.0, 0.5)),
    up("cpu_load_per_core", "Load per core", 0.7, 0.5),
    up("cpu_context_switches_total", "Context switches", 20_000.0, 2.0),
    up("cpu_forks_total", "New processes and threads", 100.0, 2.0),
    up("cpu_tasks_blocked", "Tasks waiting for I/O", 5.0, 1.0),
    both("memory_usage_percent", "Memory usage", 10.0, 0.15),
    up("memory_swap_in_bytes_total", "Reading from swap", 4e6, 1.0),
    up("memory_swap_out_bytes_total", "Writing to swap", 4e6, 1.0),
    up("memory_major_faults_total", "Major page faults", 200.0, 2.0),
    of(SOME, up("pressure_stalled_percent", "Pressure", 20.0, 0.5)),
    up("disk_await_seconds", "Time of a disk request", 0.05, 1.0),
    up("disk_utilization_percent", "Disk utilization", 40.0, 0.5),
    both("network_receive_bytes_total", "Receiving", 5e6, 4.0),
    both("network_transmit_bytes_total", "Sending", 5e6, 4.0),
    up("network_receive_drops_total", "Dropped on receiving", 50.0, 1.0),
    up("network_transmit_drops_total", "Dropped on sending", 50.0, 1.0),
    up("network_softnet_drops_total", "Dropped by softirqs", 10.0, 1.0),
    up("network_tcp_retransmits_total", "TCP segments sent again", 20.0, 2.0),
    up("network_tcp_listen_drops_total", "Connections refused by listeners", 1.0, 1.0),
    both("network_tcp_established", "TCP connections", 200.0, 0.7),
    up("network_tcp_time_wait", "TCP connections in TIME-WAIT", 2000.0, 1.0),
    up("network_sockets_used", "Sockets", 500.0, 0.7),
    up("network_conntrack_entries", "Tracked connections", 5000.0, 1.0),
    both("process_pids", "Processes", 100.0, 0.5),
    up("process_all_threads", "Threads", 300.0, 0.5),
    up("process_zombies", "Zombies", 20.0, 1.0),
    up("process_uninterruptible", "Processes in uninterruptible sleep", 4.0, 1.0),
    up("fd_used", "Open file handles", 3000.0, 0.5),
    up("kernel_temperature_celsius", "Temperature", 15.0, 0.0),
];

/// Names of interfaces and devices that come and go with containers and images, or lead nowhere.
const FLEETING: &[&str] = &["lo", "veth", "cali", "docker", "br-", "virbr", "tap", "loop", "ram", "zram"];
/// Labels that hold such names.
const NAMES: &[&str] = &["interface", "device"];

/// The row of a series, if it is judged.
pub(super) fn watched(key: &SeriesKey) -> Option<&'static Watched> {
    let fleeting =
        |name: &&str| key.labels().get(name).is_some_and(|value| FLEETING.iter().any(|begin| value.starts_with(begin)));
    let meant = |row: &&Watched| {
        row.metric == key.metric().name && row.only.iter().all(|(name, value)| key.labels().get(name) == Some(value))
    };
    WATCHED.iter().find(meant).filter(|_| !NAMES.iter().any(fleeting))
}

impl Watched {
    /// Deviation above `level` that matters.
    pub(super) fn floor_up(&self, level: f64) -> f64 {
        self.absolute.max(self.relative * level.abs())
    }

    /// Deviation below `level` that matters; infinite where none does. What falls cannot fall by more than its level.
    pub(super) fn floor_down(&self, level: f64) -> f64 {
        match self.side {
            Side::Up => f64::INFINITY,
            Side::Both => (self.absolute / 4.0).max(self.relative.min(MOST_FALL) * level.abs()),
        }
    }

    /// `CPU usage`, `Receiving on eth0`.
    pub(super) fn title(&self, labels: &Labels) -> String {
        let subject: Vec<&str> =
            labels.iter().filter(|(name, _)| self.only.iter().all(|(only, _)| only != name)).map(|(_, value)| value).collect();
        if subject.is_empty() { self.name.to_owned() } else { format!("{} of {}", self.name, subject.join(" ")) }
    }
}

/// The unit in which a series is judged: of counters the rate.
pub(super) fn unit(key: &SeriesKey) -> Unit {
    let metric = key.metric();
    if metric.kind == Kind::Counter { Unit::PerSecond } else { metric.unit }
}

/// Samples and time after which something is said of a series.
const LEAST_SAMPLES: u32 = 60;
const LEAST_TIME: Duration = Duration::from_secs(3600);
/// Standard deviations that a sample counts as at most.
const BOUND: f64 = 3.0;
/// Silence after which persistence begins anew, and of which no rate is taken.
pub(super) const SILENCE: Duration = Duration::from_secs(300);

/// What is known of one series.
pub(super) struct Watch {
    pub(super) watched: &'static Watched,
    counter: bool,
    first: Option<Timestamp>,
    last: Option<(Timestamp, f64)>,
    /// The last hour or so.
    level: Robust,
    held: Held,
    rhythm: Rhythm,
}

/// A value, and what stood before it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The value, of counters the rate by second.
    pub(super) value: f64,
    /// The usual level, its standard deviation, and the samples so far: those before the hold time, where that is over.
    pub(super) mean: f64,
    pub(super) deviation: f64,
    pub(super) samples: u32,
    /// Since when the value has been at or above the first, and at or below the second; `None` until that is long enough.
    pub(super) held: Option<(Timestamp, f64, f64)>,
    /// Whether enough was seen to judge.
    pub(super) known: bool,
}

impl Watch {
    pub(super) fn new(watched: &'static Watched, key: &SeriesKey, hold: Duration) -> Self {
        Self {
            watched,
            counter: key.metric().kind == Kind::Counter,
            first: None,
            last: None,
            level: Robust::default(),
            held: Held::new(hold),
            rhythm: Rhythm::default(),
        }
    }

    /// The time of the last sample.
    pub(super) fn seen_at(&self) -> Option<Timestamp> {
        self.last.map(|(at, _)| at)
    }

    /// Takes a sample; `None` where it says nothing yet: the first of a counter, one after a reset or a silence.
    pub(super) fn take(&mut self, at: Timestamp, sample: f64, window: usize) -> Option<Seen> {
        let last = self.last.replace((at, sample));
        // A clock that was set back would keep the series in its warm-up.
        let first = *self.first.get_or_insert(at);
        self.first = Some(first.min(at));
        let gap = last.map(|(last, _)| at.since(last));
        if last.is_some_and(|(last, _)| at < last) || gap.is_some_and(|gap| gap > SILENCE) {
            self.held.clear();
        }
        let value = if self.counter { rate(last?.1, sample, gap?)? } else { sample };
        if !value.is_finite() {
            return None;
        }
        self.held.push(at, value, &self.level);
        let (mean, deviation) = self.held.before();
        let seen = Seen {
            value,
            mean,
            deviation,
            samples: self.level.count(),
            held: self.held.range(),
            known: self.level.count() >= LEAST_SAMPLES && at.since(first) >= LEAST_TIME,
        };
        let least = self.watched.floor_up(self.level.mean()) / 10.0;
        self.level.take(value, window as f64, BOUND, least);
        self.rhythm.pass(at, seen.held.map(|(_, least, most)| (least, most)));
        Some(seen)
    }

    /// What the value has held at this time of day, before this hour; `None` where that is unknown.
    pub(super) fn usual_now(&self, at: Timestamp) -> Option<(f64, f64)> {
        self.rhythm.around(at)
    }

    /// What the value has held at any time of the days before, this hour left out; `None` until a day is known.
    pub(super) fn usual_ever(&self) -> Option<(f64, f64)> {
        self.rhythm.ever()
    }
}

/// The rate of a counter by second; `None` where it was reset, or no or too much time passed.
fn rate(before: f64, now: f64, gap: Duration) -> Option<f64> {
    (now >= before && !gap.is_zero() && gap <= SILENCE).then(|| (now - before) / gap.as_secs_f64())
}

/// Fifths of the hold time, and one that goes on; each must hold a sample.
const PARTS: usize = 6;

/// What a value was never below, and never above, for the hold time, and what was usual when that began.
struct Held {
    part: Duration,
    /// The oldest first.
    parts: [Part; PARTS],
    count: usize,
}

#[derive(Clone, Copy, Default)]
struct Part {
    begun: Timestamp,
    least: f32,
    most: f32,
    /// The level before it, and its standard deviation.
    mean: f32,
    deviation: f32,
}

impl Held {
    fn new(hold: Duration) -> Self {
        Self { part: hold / (PARTS as u32 - 1), parts: [Part::default(); PARTS], count: 0 }
    }

    fn clear(&mut self) {
        self.count = 0;
    }

    fn push(&mut self, at: Timestamp, value: f64, level: &Robust) {
        let value = value as f32;
        let last = self.count.checked_sub(1).and_then(|last| self.parts.get_mut(last));
        match last {
            Some(part) if at.since(part.begun) < self.part => {
                part.least = part.least.min(value);
                part.most = part.most.max(value);
            }
            _ => {
                if self.count == PARTS {
                    self.parts.rotate_left(1);
                    self.count -= 1;
                }
                if let Some(slot) = self.parts.get_mut(self.count) {
                    let (mean, deviation) = (level.mean() as f32, level.sigma() as f32);
                    *slot = Part { begun: at, least: value, most: value, mean, deviation };
                    self.count += 1;
                }
            }
        }
    }

    fn range(&self) -> Option<(Timestamp, f64, f64)> {
        let since = self.parts.first()?.begun;
        let least = self.parts.iter().map(|part| f64::from(part.least)).fold(f64::INFINITY, f64::min);
        let most = self.parts.iter().map(|part| f64::from(part.most)).fold(f64::NEG_INFINITY, f64::max);
        (self.count == PARTS).then_some((since, least, most))
    }

    fn before(&self) -> (f64, f64) {
        self.parts.first().map_or((0.0, 0.0), |part| (f64::from(part.mean), f64::from(part.deviation)))
    }
}

const HOURS: usize = 24;
/// How far the range of an hour follows the same hour of a later day, when that went beyond it, and when it did not.
const WIDENS: f32 = 0.7;
const NARROWS: f32 = 0.25;

/// The lowest and the highest level that was held in each hour of the day, on working days and at the weekend.
#[derive(Default)]
struct Rhythm {
    /// By kind of day and hour; `None` where no such hour was seen whole or in part.
    hours: [[Option<Range>; HOURS]; 2],
    /// The hour since the epoch that goes on, and its range.
    current: i64,
    range: Option<Range>,
}

#[derive(Clone, Copy)]
struct Range {
    low: f32,
    high: f32,
}

impl Range {
    fn with(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

impl Rhythm {
    /// Takes what has been held up to `at`: at least the first, at most the second.
    fn pass(&mut self, at: Timestamp, held: Option<(f64, f64)>) {
        let hour = hour(at);
        if hour != self.current {
            self.learn();
            self.current = hour;
        }
        let Some((least, most)) = held else { return };
        // The highest level is the most that it was never below, for the hold time.
        let range = Range { low: most as f32, high: least as f32 };
        self.range = Some(self.range.map_or(range, |known| known.with(range)));
    }

    fn learn(&mut self) {
        let Some(new) = self.range.take() else { return };
        let (day, hour) = place(self.current);
        let Some(slot) = self.hours.get_mut(day).and_then(|hours| hours.get_mut(hour)) else { return };
        *slot = Some(slot.map_or(new, |known| Range {
            low: known.low + (new.low - known.low) * if new.low < known.low { WIDENS } else { NARROWS },
            high: known.high + (new.high - known.high) * if new.high > known.high { WIDENS } else { NARROWS },
        }));
    }

    fn hour(&self, hour: i64) -> Option<Range> {
        let (day, hour) = place(hour);
        let of = |day: usize| self.hours.get(day).and_then(|hours| hours.get(hour)).copied().flatten();
        of(day).or_else(|| of(1 - day))
    }

    fn around(&self, at: Timestamp) -> Option<(f64, f64)> {
        let now = hour(at);
        let known = self.hour(now)?;
        let near = [now - 1, now + 1].into_iter().filter_map(|hour| self.hour(hour)).fold(known, Range::with);
        Some((f64::from(near.low.min(near.high)), f64::from(near.high.max(near.low))))
    }

    fn ever(&self) -> Option<(f64, f64)> {
        if !(0..HOURS as i64).all(|hour| self.hour(hour).is_some()) {
            return None;
        }
        let all = self.hours.iter().flatten().flatten().copied().reduce(Range::with)?;
        Some((f64::from(all.low.min(all.high)), f64::from(all.high.max(all.low))))
    }
}

/// Hours since the epoch.
fn hour(at: Timestamp) -> i64 {
    at.as_nanos().div_euclid(3_600_000_000_000)
}

/// Kind of day and hour of the day.
fn place(hour: i64) -> (usize, usize) {
    // The epoch was a Thursday.
    let weekend = (hour.div_euclid(24) + 3).rem_euclid(7) >= 5;
    (usize::from(weekend), usize::try_from(hour.rem_euclid(24)).unwrap_or(0))
}
