//! Statistical outliers: a value that stays far from the mean of the last hour, in standard deviations.
//!
//! The mean and the deviation are exponentially weighted over `zscore_window` samples and hardly moved by bursts. A finding needs all
//! of these: an hour of samples; `zscore_threshold` standard deviations; the least deviation that matters for the metric
//! (`usual::WATCHED`); each sample of ten minutes beyond both; and a level that the same hours of the days before did not hold.
//! Where this hour of the day is not known yet, half as much again of both deviations is asked for, and an hour: the first
//! nightly backup is no news. It is over when the value is back for ten minutes, or the mean has followed it.
//!
//! An outlier is no fault: its severity is `info` in any case, so that statistics alone never page anyone, not by escalation either.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::{Analyzer, Finding, Phase, Row, Silence};
use crate::config::Config;
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::engine::usual::{self, Seen, Watch, Watched};
use crate::model::{Evidence, SeriesKey, Severity, Timestamp};

pub(super) const ROW: Row = Row {
    name: "zscore",
    summary: "far from the mean of the last hour for ten minutes, and unlike this time of day",
    build: |config| Box::new(Zscore::new(config)),
};

/// How long each sample must be an outlier.
const HOLD: Duration = Duration::from_secs(600);
/// How much more is asked for where this hour of the day is unknown.
const UNKNOWN_HOUR: f64 = 1.5;
const UNKNOWN_HOLD: Duration = Duration::from_secs(3600);
/// Series judged at most, of about 1 kB each; a container host must not make this grow.
const MOST_SERIES: usize = 300;
/// Silence after which an outlier counts as gone.
const GONE: Duration = Duration::from_secs(600);

/// One series.
struct Series {
    watch: Watch,
    /// What was seen when it was first one, whether that is long enough or not.
    suspected: Option<Seen>,
    outlier: Option<Outlier>,
}

/// What goes on.
#[derive(Clone, Copy)]
struct Outlier {
    since: Timestamp,
    /// The usual level when it began, and the deviation that was too much.
    mean: f64,
    limit: f64,
    value: f64,
}

struct Zscore {
    window: usize,
    threshold: f64,
    /// By series id.
    series: Vec<Option<Box<Series>>>,
    watched: usize,
    refused: u64,
    outliers: BTreeSet<SeriesId>,
    silence: Silence,
}

impl Zscore {
    fn new(config: &Config) -> Self {
        Self {
            window: config.analyzer.zscore_window,
            threshold: config.analyzer.zscore_threshold,
            series: Vec::new(),
            watched: 0,
            refused: 0,
            outliers: BTreeSet::new(),
            silence: Silence::default(),
        }
    }
}

impl Series {
    /// Whether an outlier begins with what was seen.
    fn begins(&mut self, at: Timestamp, seen: &Seen, threshold: f64) -> Option<(Outlier, Seen)> {
        let (_, least, most) = seen.held.filter(|_| seen.known)?;
        // What was usual before it began: by now it is part of it.
        let before = self.suspected.unwrap_or(*seen);
        let hour = self.watch.usual_now(at);
        let watched = self.watch.watched;
        let times = if hour.is_some() { 1.0 } else { UNKNOWN_HOUR };
        let limit = |floor: f64| (threshold * before.deviation).max(floor) * times;
        let (floor_up, floor_down) = (watched.floor_up(before.mean), watched.floor_down(before.mean));
        let above = least > before.mean + limit(floor_up) && hour.is_none_or(|(_, high)| least > high + floor_up / 2.0);
        let below = most < before.mean - limit(floor_down) && hour.is_none_or(|(low, _)| most < low - floor_down / 2.0);
        if !above && !below {
            self.suspected = None;
            return None;
        }
        self.suspected = Some(before);
        let (since, _, _) = before.held?;
        let long = hour.is_some() || at.since(since) >= UNKNOWN_HOLD;
        let limit = limit(if above { floor_up } else { floor_down });
        long.then_some((Outlier { since: since.min(at), mean: before.mean, limit, value: seen.value }, before))
    }
}

impl Outlier {
    /// Whether it is over: all samples of the hold time are near what was usual, or what is usual has come near them.
    fn is_over(&self, seen: &Seen) -> bool {
        let Some((_, least, most)) = seen.held else { return false };
        [self.mean, seen.mean].iter().any(|mean| least > mean - self.limit / 2.0 && most < mean + self.limit / 2.0)
    }
}

fn finding(phase: Phase, at: Timestamp, key: &SeriesKey, watched: &Watched, outlier: &Outlier, message: String) -> Finding {
    let sign = if outlier.value < outlier.mean { -1.0 } else { 1.0 };
    Finding {
        metric: watched.metric,
        labels: key.labels().clone().with("analyzer", ROW.name),
        phase,
        severity: Severity::Info,
        value: outlier.value,
        threshold: Some(outlier.mean + sign * outlier.limit),
        message,
        since: outlier.since.min(at),
        count: 1,
        source: "samples",
        evidence: Evidence::new(),
    }
}

impl Analyzer for Zscore {
    fn reconfigure(&mut self, config: &Config) {
        self.window = config.analyzer.zscore_window;
        self.threshold = config.analyzer.zscore_threshold;
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
        *slot = Some(Box::new(Series { watch: Watch::new(watched, key, HOLD), suspected: None, outlier: None }));
        self.watched += 1;
        true
    }

    fn forget(&mut self, at: Timestamp, id: SeriesId, key: &SeriesKey, findings: &mut Vec<Finding>) {
        let Some(series) = self.series.get_mut(id.index()).and_then(Option::take) else { return };
        self.watched -= 1;
        self.outliers.remove(&id);
        findings.extend(series.outlier.map(|outlier| gone(at, key, &series, &outlier)));
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store, findings: &mut Vec<Finding>) {
        let Some(series) = self.series.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let Some(seen) = series.watch.take(at, value, self.window) else { return };
        match &mut series.outlier {
            Some(outlier) => {
                outlier.value = seen.value;
                if outlier.is_over(&seen)
                    && let Some(key) = store.key(id)
                {
                    findings.push(over(at, key, &series.watch, outlier, &seen));
                    series.outlier = None;
                    self.outliers.remove(&id);
                }
            }
            None => {
                let Some((outlier, before)) = series.begins(at, &seen, self.threshold) else { return };
                let Some(key) = store.key(id) else { return };
                findings.push(begun(at, key, series, &outlier, &before, self.window));
                series.outlier = Some(outlier);
                series.suspected = None;
                self.outliers.insert(id);
            }
        }
    }

    fn tick(&mut self, at: Timestamp, store: &Store, findings: &mut Vec<Finding>) {
        self.silence.tick(at);
        let (all, silence) = (&mut self.series, &self.silence);
        self.outliers.retain(|id| {
            let Some(series) = all.get_mut(id.index()).and_then(Option::as_mut) else { return false };
            let silent = series.watch.seen_at().is_some_and(|last| silence.since(last, at) > GONE);
            if silent && let (Some(outlier), Some(key)) = (series.outlier.take(), store.key(*id)) {
                findings.push(gone(at, key, series, &outlier));
            }
            !silent
        });
    }

    fn dropped(&self) -> u64 {
        self.refused
    }
}

fn begun(at: Timestamp, key: &SeriesKey, series: &Series, outlier: &Outlier, before: &Seen, window: usize) -> Finding {
    let (watched, unit) = (series.watch.watched, usual::unit(key));
    let far = if outlier.value < before.mean { "below" } else { "above" };
    let score = (outlier.value - before.mean) / before.deviation;
    let message = format!(
        "{} {} has been far {far} its usual {} for {}",
        watched.title(key.labels()),
        text::value(outlier.value, unit),
        text::value(before.mean, unit),
        text::duration(at.since(outlier.since))
    );
    let mut finding = finding(Phase::Holds, at, key, watched, outlier, message);
    finding.evidence.insert("mean".into(), json!(before.mean));
    finding.evidence.insert("standard_deviation".into(), json!(before.deviation));
    // A series that was constant has none.
    finding.evidence.insert("zscore".into(), if score.is_finite() { json!(score) } else { json!(null) });
    finding.evidence.insert("least_deviation".into(), json!(outlier.limit));
    finding.evidence.insert("window_samples".into(), json!(window));
    finding.evidence.insert("samples".into(), json!(before.samples));
    finding.evidence.insert("held_secs".into(), json!(at.since(outlier.since).as_secs()));
    let hour = series.watch.usual_now(at).map(|(low, high)| [low, high]);
    finding.evidence.insert("usual_at_this_hour".into(), json!(hour));
    finding
}

fn over(at: Timestamp, key: &SeriesKey, watch: &Watch, outlier: &Outlier, seen: &Seen) -> Finding {
    let unit = usual::unit(key);
    let back = (seen.value - outlier.mean).abs() < outlier.limit;
    let value = text::value(seen.value, unit);
    let title = watch.watched.title(key.labels());
    let message = if back {
        format!("{title} back to {value} (usual {})", text::value(outlier.mean, unit))
    } else {
        format!("{title} {value} is usual by now (before: {})", text::value(outlier.mean, unit))
    };
    finding(Phase::Cleared, at, key, watch.watched, outlier, message)
}

fn gone(at: Timestamp, key: &SeriesKey, series: &Series, outlier: &Outlier) -> Finding {
    let watched = series.watch.watched;
    let last = text::value(outlier.value, usual::unit(key));
    let message = format!("{} is no longer reported (last {last})", watched.title(key.labels()));
    finding(Phase::Cleared, at, key, watched, outlier, message)
}
