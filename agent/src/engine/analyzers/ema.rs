//! Sudden changes: a value that leaves its exponential moving average and stays away, to where it has not been lately.
//!
//! The average has the weight `ema_alpha`: at 0.1 and ten seconds it is that of the last few minutes, so that what changes slowly takes
//! it along. A finding needs all of these: a day of samples; three times `zscore_threshold` standard deviations of the usual distance
//! from the average, and of the least deviation that matters for the metric (`usual::WATCHED`), once both for what falls; both also
//! from the mean of the last hour, so that the way back is no finding; all samples of 50 s, and six of them; and a level that no
//! hour of the days before held.
//!
//! A change happens once: the incident ends when no other one comes. Its severity is `info`, for the reason that `zscore` gives.

use std::time::Duration;

use serde_json::json;

use super::{Analyzer, Finding, Phase, Row};
use crate::config::Config;
use crate::engine::robust::Robust;
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::engine::usual::{self, Seen, Watch};
use crate::model::{Evidence, SeriesKey, Severity, Timestamp};

pub(super) const ROW: Row = Row {
    name: "ema",
    summary: "leaves its exponential moving average within a minute, to where it has not been",
    build: |config| Box::new(Ema::new(config)),
};

/// How long the value must stay away.
const HOLD: Duration = Duration::from_secs(50);
/// Samples that this is at least.
const SAMPLES: usize = 6;
/// How many times the standard deviations and the least deviation of the z-score.
const TIMES: f64 = 3.0;
/// Samples over which the usual distance from the average is taken.
const WINDOW: f64 = 360.0;
/// Standard deviations that a distance counts as at most.
const BOUND: f64 = 3.0;
/// Series judged at most.
const MOST_SERIES: usize = 300;

/// One series.
struct Series {
    watch: Watch,
    average: f64,
    /// The average before each of those samples, the oldest first.
    before: [f32; SAMPLES],
    distance: Robust,
    /// Whether the change that goes on was told.
    told: bool,
}

/// A change, in numbers.
struct Change {
    since: Timestamp,
    /// The average before it.
    from: f64,
    limit: f64,
    deviation: f64,
}

struct Ema {
    alpha: f64,
    threshold: f64,
    window: usize,
    /// By series id.
    series: Vec<Option<Box<Series>>>,
    watched: usize,
    refused: u64,
}

impl Ema {
    fn new(config: &Config) -> Self {
        let mut ema = Self { alpha: 0.0, threshold: 0.0, window: 0, series: Vec::new(), watched: 0, refused: 0 };
        ema.reconfigure(config);
        ema
    }
}

impl Series {
    fn change(&self, seen: &Seen, threshold: f64) -> Option<Change> {
        let (since, least, most) = seen.held.filter(|_| seen.known)?;
        let from = f64::from(*self.before.first()?);
        let (low, high) = self.watch.usual_ever()?;
        let watched = self.watch.watched;
        let deviation = self.distance.mean().max(seen.deviation);
        let level = seen.mean.abs().max(from.abs());
        let (floor_up, floor_down) = (watched.floor_up(level), watched.floor_down(level));
        let limit_up = TIMES * (threshold * deviation).max(floor_up);
        let above = least > from.max(seen.mean) + limit_up && least > high + floor_up / 2.0;
        let limit_down = (threshold * deviation).max(floor_down);
        let below = most < from.min(seen.mean) - limit_down && most < low - floor_down / 2.0;
        let limit = if above { limit_up } else { -limit_down };
        (above || below).then_some(Change { since, from, limit, deviation })
    }

    /// Takes a value into the average.
    fn follow(&mut self, value: f64, alpha: f64) {
        if self.distance.count() == 0 {
            self.average = value;
            self.before = [value as f32; SAMPLES];
        }
        self.before.rotate_left(1);
        if let Some(newest) = self.before.last_mut() {
            *newest = self.average as f32;
        }
        let off = value - self.average;
        let least = self.watch.watched.floor_up(self.average) / 10.0;
        self.distance.take(off.abs(), WINDOW, BOUND, least);
        self.average += alpha * off;
    }
}

impl Analyzer for Ema {
    fn reconfigure(&mut self, config: &Config) {
        self.alpha = config.analyzer.ema_alpha;
        self.threshold = config.analyzer.zscore_threshold;
        self.window = config.analyzer.zscore_window;
    }

    fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        let Some(watched) = usual::watched(key) else { return false };
        if self.watched >= MOST_SERIES {
            self.refused += 1;
            return false;
        }
        if self.series.len() <= id.index() {
            self.series.resize_with(id.index() + 1, || None);
        }
        let Some(slot) = self.series.get_mut(id.index()) else { return false };
        *slot = Some(Box::new(Series {
            watch: Watch::new(watched, key, HOLD),
            average: 0.0,
            before: [0.0; SAMPLES],
            distance: Robust::default(),
            told: false,
        }));
        self.watched += 1;
        true
    }

    fn forget(&mut self, _at: Timestamp, id: SeriesId, _key: &SeriesKey, _findings: &mut Vec<Finding>) {
        if self.series.get_mut(id.index()).and_then(Option::take).is_some() {
            self.watched -= 1;
        }
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store, findings: &mut Vec<Finding>) {
        let Some(series) = self.series.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let Some(seen) = series.watch.take(at, value, self.window) else { return };
        series.follow(seen.value, self.alpha);
        let change = series.change(&seen, self.threshold);
        if let Some(change) = &change
            && !series.told
            && let Some(key) = store.key(id)
        {
            findings.push(finding(at, key, series, change, &seen, self.alpha));
        }
        series.told = change.is_some();
    }

    fn dropped(&self) -> u64 {
        self.refused
    }
}

fn finding(at: Timestamp, key: &SeriesKey, series: &Series, change: &Change, seen: &Seen, alpha: f64) -> Finding {
    let (watched, unit) = (series.watch.watched, usual::unit(key));
    let verb = if change.limit < 0.0 { "fell" } else { "rose" };
    let message = format!(
        "{} {verb} suddenly from {} to {}",
        watched.title(key.labels()),
        text::value(change.from, unit),
        text::value(seen.value, unit)
    );
    let deviations = (seen.value - change.from) / change.deviation;
    let mut evidence = Evidence::new();
    evidence.insert("moving_average".into(), json!(change.from));
    evidence.insert("alpha".into(), json!(alpha));
    evidence.insert("deviation".into(), json!(change.deviation));
    evidence.insert("deviations".into(), if deviations.is_finite() { json!(deviations) } else { json!(null) });
    evidence.insert("least_deviation".into(), json!(change.limit.abs()));
    evidence.insert("mean".into(), json!(seen.mean));
    evidence.insert("samples".into(), json!(seen.samples));
    evidence.insert("held_secs".into(), json!(at.since(change.since).as_secs()));
    evidence.insert("held_before".into(), json!(series.watch.usual_ever().map(|(low, high)| [low, high])));
    Finding {
        metric: watched.metric,
        labels: key.labels().clone().with("analyzer", ROW.name),
        phase: Phase::Occurred,
        severity: Severity::Info,
        value: seen.value,
        threshold: Some(change.from + change.limit),
        message,
        since: change.since.min(at),
        count: 1,
        source: "samples",
        evidence,
    }
}
