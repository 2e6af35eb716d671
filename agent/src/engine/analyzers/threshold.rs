//! Limits on polled values: a limit passed for a hold time begins an incident, a lower limit held for as long ends it.
//!
//! Which series have which limit is in `rules`. The lower limit and the hold time keep a value that swings around the limit
//! quiet; a value that swings so widely that it begins and ends again and again must stay down for longer and longer until it
//! counts as over. Severity follows the value: Critical where it is past the critical limit for the hold time. A series that stops
//! arriving (its process ended, its mount is gone) ends its incident, in words that say so.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use self::rules::Limits;
pub use self::rules::limit;
use super::{Analyzer, Finding, Phase, Row, Silence};
use crate::config::{Config, Thresholds};
use crate::engine::store::{SeriesId, Store};
use crate::engine::text;
use crate::model::{Evidence, Labels, SeriesKey, Severity, Timestamp};

pub(super) const ROW: Row = Row {
    name: "threshold",
    summary: "a limit is passed for a hold time; a lower limit clears it",
    build: |config| Box::new(Threshold::new(config)),
};

/// Series silent for less than this are never called gone.
const LEAST_SILENCE: Duration = Duration::from_secs(120);
/// Intervals without a sample after which a series is called gone.
const MISSED_INTERVALS: u32 = 3;
/// How long a value that began again shortly after it was over must stay down; doubles with each time.
const FLAP_HOLD: Duration = Duration::from_secs(60);
/// Samples shown as evidence.
const SHOWN_SAMPLES: usize = 10;

/// A run of samples that pass the limit.
#[derive(Clone, Copy, Debug)]
struct Run {
    since: Timestamp,
    /// Passing samples that no finding has told of yet.
    count: u64,
    critical_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Quiet,
    Pending(Run),
    Firing {
        run: Run,
        severity: Severity,
        /// Whether the latest sample passed the limit.
        passes: bool,
        below_since: Option<Timestamp>,
    },
}

/// What is remembered of one series.
#[derive(Debug)]
struct Watch {
    limits: Limits,
    /// Whether the configuration took its limits away while it was past them.
    is_lifted: bool,
    state: State,
    last: Option<(Timestamp, f64)>,
    /// The usual time between two samples.
    interval: Duration,
    /// How often it began again within the deduplication window of its last end, in a row.
    flaps: u32,
    cleared_at: Option<Timestamp>,
}

impl Watch {
    /// Silence after which the series is called gone.
    fn patience(&self) -> Duration {
        self.interval.saturating_mul(MISSED_INTERVALS).max(LEAST_SILENCE)
    }

    /// Takes the time of a sample: learns the usual interval, forgets a run that was interrupted, follows a clock set back.
    fn pass_time(&mut self, at: Timestamp) {
        let Some((last, _)) = self.last else { return };
        let gap = at.since(last);
        if gap > self.patience() && matches!(self.state, State::Pending(_)) {
            self.state = State::Quiet;
        }
        if !gap.is_zero() {
            // One late sample must not make the series look slow.
            self.interval = if self.interval.is_zero() { gap } else { gap.min(self.interval.saturating_mul(2)) };
        }
        if at < last {
            let earlier = |time: &mut Option<Timestamp>| *time = time.map(|time| time.min(at));
            earlier(&mut self.cleared_at);
            if let State::Firing { below_since, .. } = &mut self.state {
                earlier(below_since);
            }
            if let State::Pending(run) | State::Firing { run, .. } = &mut self.state {
                run.since = run.since.min(at);
                earlier(&mut run.critical_since);
            }
        }
    }

    /// How long the value must stay at or below the clearing limit.
    fn clear_hold(&self, most: Duration) -> Duration {
        let damped = match self.flaps.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => FLAP_HOLD.saturating_mul(1 << doublings.min(16)).min(most),
        };
        self.limits.hold.max(damped)
    }

    /// Moves the state by one sample; `Some` where there is something to say.
    fn step(&mut self, at: Timestamp, value: f64, dedup_window: Duration) -> Option<Phase> {
        self.pass_time(at);
        self.last = Some((at, value));
        let (hold, clear_hold) = (self.limits.hold, self.clear_hold(dedup_window));
        let passes = self.limits.passes(value, self.limits.warn);
        match &mut self.state {
            State::Quiet | State::Pending(_) if !passes => {
                self.state = State::Quiet;
                None
            }
            State::Quiet | State::Pending(_) => {
                let mut run = match self.state {
                    State::Pending(run) => run,
                    _ => Run { since: at, count: 0, critical_since: None },
                };
                run.take(at, value, &self.limits);
                if at.since(run.since) < hold {
                    self.state = State::Pending(run);
                    return None;
                }
                let again = self.cleared_at.is_some_and(|cleared| at.since(cleared) <= dedup_window);
                self.flaps = if again { self.flaps.saturating_add(1) } else { 0 };
                self.state = State::Firing { run, severity: run.severity(at, hold), passes: true, below_since: None };
                Some(Phase::Holds)
            }
            State::Firing { run, severity, passes: passed, below_since } => {
                let changed = std::mem::replace(passed, passes) != passes;
                if passes {
                    run.take(at, value, &self.limits);
                    *below_since = None;
                    let now = run.severity(at, hold);
                    if now > *severity {
                        *severity = now;
                        return Some(Phase::Holds);
                    }
                    return changed.then_some(Phase::Resumed);
                }
                run.critical_since = None;
                let paused = changed.then_some(Phase::Paused);
                if self.limits.is_past(value, self.limits.clear) {
                    *below_since = None;
                    return paused;
                }
                let since = *below_since.get_or_insert(at);
                if at.since(since) >= clear_hold { Some(Phase::Cleared) } else { paused }
            }
        }
    }

    /// The finding about a firing series; ends the incident where `phase` says so.
    fn finding(&mut self, phase: Phase, at: Timestamp, key: &SeriesKey, message: String, evidence: Evidence) -> Option<Finding> {
        let State::Firing { run, severity, .. } = &mut self.state else { return None };
        let finding = Finding {
            metric: key.metric().name,
            labels: key.labels().clone(),
            phase,
            severity: *severity,
            value: self.last.map_or(0.0, |(_, value)| value),
            threshold: Some(self.limits.warn),
            message,
            since: run.since,
            count: run.count,
            source: "samples",
            evidence,
        };
        run.count = 0;
        if phase == Phase::Cleared {
            self.state = State::Quiet;
            self.cleared_at = Some(at);
        }
        Some(finding)
    }

    fn gone(&mut self, at: Timestamp, key: &SeriesKey) -> Option<Finding> {
        let (unit, limit) = (key.metric().unit, self.limits.warn);
        let last = self.last.map_or(0.0, |(_, value)| value);
        let what = if self.is_lifted { "has no limit any more" } else { "is no longer reported" };
        let message = format!(
            "{} {what} (last {}, threshold {})",
            self.limits.title(key.labels()),
            text::value(last, unit),
            text::limit(limit, unit)
        );
        self.finding(Phase::Cleared, at, key, message, Evidence::new())
    }
}

impl Run {
    fn take(&mut self, at: Timestamp, value: f64, limits: &Limits) {
        self.count += 1;
        self.critical_since = limits.passes(value, limits.critical).then(|| self.critical_since.unwrap_or(at));
    }

    fn severity(&self, at: Timestamp, hold: Duration) -> Severity {
        if self.critical_since.is_some_and(|since| at.since(since) >= hold) { Severity::Critical } else { Severity::Warn }
    }
}

impl Limits {
    /// `Disk usage of /var`, `File descriptor usage of nginx (pid 7)`.
    fn title(&self, labels: &Labels) -> String {
        let subject = self.subject.unwrap_or_default();
        let mut subject = subject.iter().filter_map(|name| Some((*name, labels.get(name)?)));
        match (subject.next(), subject.next()) {
            (Some((_, first)), Some((name, second))) => format!("{} of {first} ({name} {second})", self.name),
            (Some((_, only)), None) => format!("{} of {only}", self.name),
            (None, _) if self.subject == Some(&[]) || labels.is_empty() => self.name.to_owned(),
            (None, _) => format!("{} of {labels}", self.name),
        }
    }

    fn message(&self, phase: Phase, key: &SeriesKey, value: f64, duration: Duration) -> String {
        let (title, unit) = (self.title(key.labels()), key.metric().unit);
        let (value_text, limit_text) = (text::value(value, unit), text::limit(self.warn, unit));
        if phase == Phase::Cleared {
            return format!("{title} back to {value_text} (threshold {limit_text})");
        }
        if phase == Phase::Paused {
            return format!("{title} {value_text} does not pass threshold {limit_text} for now");
        }
        let verb = match (self.is_past(value, self.warn), self.below) {
            (false, _) => "reaches",
            (true, false) => "exceeds",
            (true, true) => "is below",
        };
        let held = if duration.as_secs() == 0 { String::new() } else { format!(" for {}", text::duration(duration)) };
        format!("{title} {value_text} {verb} threshold {limit_text}{held}")
    }
}

struct Threshold {
    thresholds: Thresholds,
    dedup_window: Duration,
    watches: BTreeMap<SeriesId, Watch>,
    firing: BTreeSet<SeriesId>,
    silence: Silence,
}

impl Threshold {
    fn new(config: &Config) -> Self {
        Self {
            thresholds: config.thresholds.clone(),
            dedup_window: config.alerting.dedup_window,
            watches: BTreeMap::new(),
            firing: BTreeSet::new(),
            silence: Silence::default(),
        }
    }
}

impl Analyzer for Threshold {
    fn reconfigure(&mut self, config: &Config) {
        self.thresholds = config.thresholds.clone();
        self.dedup_window = config.alerting.dedup_window;
    }

    fn watch(&mut self, id: SeriesId, key: &SeriesKey) -> bool {
        let Some(limits) = Limits::of(key, &self.thresholds) else { return false };
        let interval = Duration::ZERO;
        let watch = Watch { limits, is_lifted: false, state: State::Quiet, last: None, interval, flaps: 0, cleared_at: None };
        self.watches.insert(id, watch);
        true
    }

    fn watch_again(&mut self, id: SeriesId, key: &SeriesKey) -> Option<bool> {
        let Some(watch) = self.watches.get_mut(&id) else { return Some(self.watch(id, key)) };
        let limits = Limits::of(key, &self.thresholds);
        match limits {
            Some(limits) => (watch.limits, watch.is_lifted) = (limits, false),
            // It has to be said that it is over.
            None if self.firing.contains(&id) => watch.is_lifted = true,
            None => drop(self.watches.remove(&id)),
        }
        Some(limits.is_some())
    }

    fn forget(&mut self, at: Timestamp, id: SeriesId, key: &SeriesKey, findings: &mut Vec<Finding>) {
        self.firing.remove(&id);
        if let Some(mut watch) = self.watches.remove(&id) {
            findings.extend(watch.gone(at, key));
        }
    }

    fn sample(&mut self, at: Timestamp, id: SeriesId, value: f64, store: &Store, findings: &mut Vec<Finding>) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let Some(phase) = watch.step(at, value, self.dedup_window) else { return };
        let (State::Firing { run, severity, .. }, Some(key)) = (&watch.state, store.key(id)) else { return };
        if matches!(phase, Phase::Paused | Phase::Resumed) {
            findings.push(Finding {
                metric: key.metric().name,
                labels: key.labels().clone(),
                phase,
                severity: *severity,
                value,
                threshold: Some(watch.limits.warn),
                message: watch.limits.message(phase, key, value, at.since(run.since)),
                since: run.since,
                count: 0,
                source: "samples",
                evidence: Evidence::new(),
            });
            return;
        }
        let message = watch.limits.message(phase, key, value, at.since(run.since));
        let evidence = evidence(at, id, store, watch);
        findings.extend(watch.finding(phase, at, key, message, evidence));
        if phase == Phase::Cleared {
            self.firing.remove(&id);
        } else {
            self.firing.insert(id);
        }
    }

    fn tick(&mut self, at: Timestamp, store: &Store, findings: &mut Vec<Finding>) {
        self.silence.tick(at);
        let (watches, silence) = (&mut self.watches, &self.silence);
        self.firing.retain(|id| {
            let (Some(watch), Some(key)) = (watches.get_mut(id), store.key(*id)) else { return false };
            let silent = watch.last.is_some_and(|(last, _)| silence.since(last, at) > watch.patience());
            let is_lifted = watch.is_lifted;
            if silent || is_lifted {
                findings.extend(watch.gone(at, key));
            }
            if is_lifted {
                watches.remove(id);
            }
            !silent && !is_lifted
        });
    }
}

/// The last values and where they are heading.
fn evidence(at: Timestamp, id: SeriesId, store: &Store, watch: &Watch) -> Evidence {
    let mut recent: Vec<(f64, f64)> =
        store.newest(id).take(SHOWN_SAMPLES).map(|(time, value)| (at.since(time).as_millis() as f64 / 1e3, value)).collect();
    recent.reverse();
    let mut evidence = Evidence::new();
    evidence.insert("trend".into(), json!(trend(&recent, watch.limits.warn)));
    evidence.insert("recent".into(), json!(recent));
    if watch.limits.critical.is_finite() {
        evidence.insert("critical_threshold".into(), json!(watch.limits.critical));
    }
    if watch.flaps > 0 {
        evidence.insert("began_again".into(), json!(watch.flaps));
    }
    evidence
}

/// The slope of the least-squares line through (seconds ago, value), in words. Less than a hundredth of the limit over the whole
/// time shown is steady.
fn trend(recent: &[(f64, f64)], limit: f64) -> String {
    let count = recent.iter().map(|_| 1.0).sum::<f64>();
    let (ago_mean, value_mean) =
        (recent.iter().map(|(ago, _)| ago / count).sum::<f64>(), recent.iter().map(|(_, value)| value / count).sum::<f64>());
    let covariance = recent.iter().map(|(ago, value)| (ago_mean - ago) * (value - value_mean)).sum::<f64>();
    let variance = recent.iter().map(|(ago, _)| (ago_mean - ago).powi(2)).sum::<f64>();
    let per_minute = covariance / variance * 60.0;
    let span = recent.iter().map(|(ago, _)| *ago).fold(0.0, f64::max);
    if !per_minute.is_finite() || (per_minute * span / 60.0).abs() < limit.abs() / 100.0 {
        return "steady".to_owned();
    }
    let digits = if per_minute.abs() < 0.1 { 4 } else { 1 };
    let direction = if per_minute > 0.0 { "rising" } else { "falling" };
    format!("{direction} {:.digits$} per minute", per_minute.abs())
}
